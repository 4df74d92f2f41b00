"""A search: Optuna proposes overrides, any launcher runs them, Optuna is told what came out.

Everything that happened is in the journal of the search's folder. What Optuna proposes for a trial depends on
nothing but that journal, the sampler's seed and the trial's number, so a search that was stopped goes on as if it
had not been, and the trials of a batch do not depend on which of them ends first.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from replicata.errors import RunError, UserError, nearest
from replicata.run import job
from replicata.run.failures import Failure
from replicata.run.lock import exclusive
from replicata.run.sampling import Settings, mend, need_optuna, open_study, sampler_of
from replicata.run.space import Parameter, from_override, parse_space

if TYPE_CHECKING:
    import optuna
    from hydra.core.utils import JobReturn

STARTS = 3  # of one trial: one that takes its process with it every time must not stop the search for ever
OWN = ("search", "launcher", "arm")  # keys that mean the search, not the run


def search(sweeper: Any, arguments: Sequence[str]) -> None:
    """What the sweeper does.

    Args:
        sweeper: With Hydra's ``loader``, ``launcher`` and ``config``.
        arguments: Overrides of the command line; those that sweep join the space.

    Raises:
        UserError: for a mistake in the search.
        RunError: if no trial finished.
    """
    config = sweeper.config
    node = OmegaConf.to_container(config.search, resolve=True) if config.get("search") else None
    if not isinstance(node, dict):
        raise UserError("this sweeper needs a space: choose one with search=...")
    if node["trial"] is not None:
        raise UserError("search.trial is set by the search itself; leave it out")
    settings = Settings.of(node)
    fixed, parameters = _split(sweeper, arguments, node["space"])
    _fits(settings, parameters)
    need_optuna(settings)
    question = _question(sweeper, fixed, parameters, settings)
    folder = Path(node["storage"] or f"{config.paths.outputs}/search/{question}").expanduser().absolute()
    job.failed.clear()
    with exclusive(folder):
        mend(folder)
        study = open_study(folder, settings)
        known = study.user_attrs.get("question", question)
        if known != question:
            raise UserError(f"search.storage: {folder} holds another search ({known}); choose another folder")
        study.set_user_attr("question", question)
        Search(sweeper, study, folder, settings, fixed, parameters).run()


def _split(sweeper: Any, arguments: Sequence[str], space: Mapping[str, Any]) -> tuple[list[str], list[Parameter]]:
    """The overrides that every trial has, and the parameters of the space."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=sweeper.loader)
    parameters = {parameter.key: parameter for parameter in parse_space(space)}
    fixed = []
    for word, override in zip(arguments, parser.parse_overrides(list(arguments)), strict=True):
        key = override.get_key_element()
        if override.is_sweep_override():
            parameters[key] = from_override(override)
        else:
            parameters.pop(key, None)  # what the command line says is not searched for
            fixed.append(word)
    if "seed" in parameters:
        raise UserError("seed is no hyperparameter: a search keeps one; compare seeds in a study or a sweep")
    if not parameters:
        raise UserError(
            "search.space is empty: choose a space with search=..., or name what varies,"
            " as in 'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
        )
    return fixed, [*parameters.values()]


def _fits(settings: Settings, parameters: Sequence[Parameter]) -> None:
    if settings.sampler == "cmaes":
        words = [parameter.key for parameter in parameters if parameter.kind == "categorical"]
        if words:
            raise UserError(f"search.sampler=cmaes is for numbers, and {', '.join(words)} has choices; use tpe")
        if len(parameters) < 2:
            raise UserError("search.sampler=cmaes needs two parameters or more; use tpe")
    if settings.sampler == "grid":
        for parameter in parameters:
            parameter.grid()


def _question(sweeper: Any, fixed: Sequence[str], parameters: Sequence[Parameter], settings: Settings) -> str:
    """The experiment's name, and a hash of what the answer depends on: the run, its code, the space, the search.

    Not the number of trials and how many go at a time: a search can go on for longer.
    """
    from replicata.run.fingerprint import code_fingerprint
    from replicata.run.identity import code_targets, identify

    first = [parameter.override(parameter.first) for parameter in parameters]
    config = sweeper.loader.load_sweep_config(sweeper.config, [*fixed, *first])
    with open_dict(config):
        config.name = config.hydra.runtime.choices.get("experiment")
        del config["hydra"]
    assert isinstance(config, DictConfig)
    identity = identify(config)
    code = code_fingerprint(code_targets(config), config.get("allow") or ())
    rules = {key: value for key, value in asdict(settings).items() if key not in ("trials", "parallel")}
    content = [identity.hash, identity.seed, code, [asdict(parameter) for parameter in parameters], rules]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return f"{identity.name}/{digest}"


@dataclass
class Search:
    """Ask, launch, tell, until there are enough trials.

    Args:
        sweeper: With Hydra's ``launcher`` and ``config``.
        study: Optuna's, on the journal.
        folder: Of the search.
        settings: The rules.
        fixed: Overrides of every trial.
        parameters: What varies.
    """

    sweeper: Any
    study: optuna.Study
    folder: Path
    settings: Settings
    fixed: Sequence[str]
    parameters: Sequence[Parameter]

    def __post_init__(self) -> None:
        self.trials = self.settings.trials or 0
        here = Path.cwd()
        self.place = self.folder.relative_to(here) if self.folder.is_relative_to(here) else self.folder
        if self.settings.sampler == "grid":
            self._enqueue_grid()

    def run(self) -> None:
        """The whole search, or what is left of it."""
        told = sum(trial.state.is_finished() for trial in self._trials())
        if told:
            self._say(f"{told} of {self.trials} trials were done before ({self.place})")
        while batch := self._batch():
            while batch:
                batch = self._launch(batch)
            self._stop_if_nothing_works()
        self._conclude()

    # Ask -----------------------------------------------------------------------------------

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _enqueue_grid(self) -> None:
        """All points in an order drawn by the seed: the first of them are spread over the grid."""
        import numpy as np

        points = list(itertools.product(*(parameter.grid() for parameter in self.parameters)))
        self.trials = min(self.trials or len(points), len(points))
        order = np.random.default_rng(self.settings.seed).permutation(len(points))
        for index in order[len(self._trials()) : self.trials]:
            keys = [parameter.key for parameter in self.parameters]
            self.study.enqueue_trial(dict(zip(keys, points[index], strict=True)))

    def _batch(self) -> list[optuna.Trial]:
        """The trials that a dead process left open, and new ones up to the end of their batch."""
        import optuna

        trials = [trial for trial in self._trials() if trial.state != optuna.trial.TrialState.WAITING]
        left = [trial.number for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
        again = [trial for number in left if (trial := self._again(number)) is not None]
        size = self.settings.parallel
        whole = not again and len(trials) % size == 0
        end = min(self.trials, (math.ceil(len(trials) / size) + whole) * size)
        return again + [self._ask(number) for number in range(len(trials), end)]

    def _ask(self, number: int) -> optuna.Trial:
        self.study.sampler = sampler_of(self.settings, number)
        trial = self.study.ask()
        for parameter in self.parameters:
            parameter.suggest(trial)
        return trial

    def _again(self, number: int) -> optuna.Trial | None:
        """Take up a trial that was running; its run goes on from its last checkpoint."""
        import optuna

        self.study.sampler = sampler_of(self.settings, number)
        storage = self.study._storage
        trial = optuna.Trial(self.study, storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))
        starts = trial.user_attrs.get("starts", 1) + 1
        if starts > STARTS:
            self._fail(trial, f"its process died {STARTS} times")
            return None
        trial.set_user_attr("starts", starts)
        for parameter in self.parameters:  # what it was asked before is kept
            parameter.suggest(trial)
        return trial

    # Run -----------------------------------------------------------------------------------

    def _overrides(self, values: Mapping[str, Any]) -> list[str]:
        return [parameter.override(values[parameter.key]) for parameter in self.parameters]

    def _launch(self, batch: Sequence[optuna.Trial]) -> list[optuna.Trial]:
        """Run a batch and tell what came out; returns the trials whose run another process is at."""
        from replicata.run.space import text_of

        same = [*self.fixed, f"search.storage={text_of(str(self.folder))}", "trainer.enable_progress_bar=false"]
        jobs = []
        for trial in batch:
            own = [f"search.trial={trial.number}", f"arm=trial-{trial.number}"]
            jobs.append([*same, *self._overrides(trial.params), *own])
        try:
            results = self.sweeper.launcher.launch(jobs, initial_job_idx=batch[0].number)
        except KeyboardInterrupt:
            for trial in batch:  # the user's wish, not the trial's fault
                trial.set_user_attr("starts", trial.user_attrs.get("starts", 1) - 1)
            raise
        busy = []
        for trial, result in zip(batch, results, strict=True):
            outcome = _outcome(result)
            if isinstance(outcome, Failure) and outcome.kind == "busy":
                busy.append(trial)
            else:
                self._tell(trial, outcome)
        if busy:
            time.sleep(2.0)
        return busy

    # Tell ----------------------------------------------------------------------------------

    def _tell(self, trial: optuna.Trial, outcome: Mapping[str, float] | Failure) -> None:
        import optuna

        metric = self.settings.metric
        if isinstance(outcome, Failure):
            if outcome.kind == "pruned":
                self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                self._say_trial(trial, outcome.message)
            else:
                self._fail(trial, outcome.message, mistake=outcome.status == 2)
            return
        if metric not in outcome:
            raise UserError(f"search.metric={metric} is not among the metrics of the run; {nearest(metric, outcome)}")
        value = float(outcome[metric])
        if not math.isfinite(value):
            self._fail(trial, f"{metric} is not finite")
            return
        self.study.tell(trial, value)
        self._say_trial(trial, f"{metric} {value:.4f}")

    def _fail(self, trial: optuna.Trial, why: str, mistake: bool = False) -> None:
        import optuna

        trial.set_user_attr("failure", why)
        trial.set_user_attr("mistake", mistake)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._say_trial(trial, f"failed: {why}")

    def _stop_if_nothing_works(self) -> None:
        """Three mistakes and nothing else: the mistake is in the command, and the search has not begun."""
        trials = [trial for trial in self._trials() if trial.state.is_finished()]
        mistakes = [trial.user_attrs["failure"] for trial in trials if trial.user_attrs.get("mistake")]
        if len(trials) == len(mistakes) >= min(3, self.trials):
            (self.folder / "journal.log").unlink()
            raise UserError(f"no trial could begin: {mistakes[-1]}")

    # Say -----------------------------------------------------------------------------------

    @staticmethod
    def _say(line: str) -> None:
        print(f"search: {line}", file=sys.stderr, flush=True)

    def _say_trial(self, trial: optuna.Trial, what: str) -> None:
        self._say(f"trial {trial.number} of {self.trials}  {' '.join(self._overrides(trial.params))}  {what}")

    def _conclude(self) -> None:
        """The best trial as a command line to paste."""
        import optuna

        job.failed.clear()  # a failed trial is an answer, too
        states = optuna.trial.TrialState
        trials = {state: [trial for trial in self._trials() if trial.state == state] for state in states}
        counts = ((states.COMPLETE, "finished"), (states.PRUNED, "pruned"), (states.FAIL, "failed"))
        summary = ", ".join(f"{len(trials[state])} {word}" for state, word in counts if trials[state])
        for trial in trials[states.FAIL]:
            self._say(f"trial {trial.number} failed: {trial.user_attrs['failure']}")
        if not trials[states.COMPLETE]:
            raise RunError(f"no trial finished ({summary}); the search is in {self.place}", "no_trial")
        best = self.study.best_trial
        print(f"best {self.settings.metric} {best.value:.4f} in trial {best.number} ({summary}; {self.place})")
        print(shlex.join(["replicata", "run", *self._command(), *self._overrides(best.params)]))

    def _command(self) -> list[str]:
        """The command line without the search."""
        sources = self.sweeper.config.hydra.runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        words = [word for word in self.fixed if word.lstrip("+~").partition("=")[0].partition(".")[0] not in OWN]
        return [*(word for folder in folders for word in ("--config-dir", folder)), *words]


def _outcome(result: JobReturn) -> Mapping[str, float] | Failure:
    """Metrics or failure of a job; one whose process died has raised."""
    from hydra.core.utils import JobStatus

    from replicata.run.runner import first_line

    value = result._return_value
    if result.status == JobStatus.COMPLETED:
        return value
    return Failure(first_line(value) if isinstance(value, BaseException) else str(value), 1, "error")

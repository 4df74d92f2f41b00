"""What ``replicata study`` and ``replicata tune`` have in common: they are told a study, plan runs and carry them out.

campaign = Campaign.of(sweeper, arguments, usage)
planned = campaign.plan(specs)
failed = campaign.carry_out(planned, title)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from replicata.board.progress import MARKS, StudyProgress
from replicata.errors import UserError
from replicata.run import compose as composing
from replicata.run.failures import Failed, Failure, names
from replicata.run.identity import OUTSIDE
from replicata.study.parse import parse
from replicata.study.plan import RunSpec
from replicata.study.run import Planned, Planner, carry_out, check_choice, config_key, state
from replicata.study.schema import Study
from replicata.study.table import Function, functions_of

MASTER = ("experiment", "launcher", "search")  # what the sweep itself decides
QUIET = "trainer.enable_progress_bar=false"


@dataclass
class Campaign:
    """A study to carry out, or to tune.

    Attributes:
        sweeper: With Hydra's ``loader``, ``launcher`` and ``config``.
        options: The sweeper's: see ``hydra_plugins.replicata_sweepers``.
        study: The study.
        extra: Overrides of the command line that are for the runs.
    """

    sweeper: Any
    options: Mapping[str, Any]
    study: Study
    extra: Sequence[str]
    launched: int = 0

    @classmethod
    def of(cls, sweeper: Any, arguments: Sequence[str], usage: str) -> Campaign:
        """Read what the sweeper was told.

        Args:
            sweeper: With its ``options``.
            arguments: Overrides of the command line.
            usage: Of the command.

        Raises:
            UserError: if an option is wrong, or no experiment with a study is named.
        """
        options = sweeper.options
        check_choice("--on-error", options["on_error"], ("continue", "stop"))
        check_choice("--reuse", options["reuse"], ("same_code", "any"))
        name = sweeper.config.hydra.runtime.choices.get("experiment")
        if not name:
            raise UserError(usage)
        extra = [word for word in arguments if word.partition("=")[0] not in MASTER]
        return cls(sweeper, options, parse(sweeper.config.get("study"), name), extra)

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def config(self) -> DictConfig:
        return self.sweeper.config

    @property
    def kept(self) -> list[str]:
        """Those of its overrides that can change a number, which belong into a committed file."""
        return [word for word in self.extra if word.lstrip("+~").replace("=", ".").split(".")[0] not in OUTSIDE]

    @property
    def functions(self) -> Function:
        """Finds the functions that the study names."""
        return functions(self.config)

    @cached_property
    def planner(self) -> Planner:
        """Finds the runs' directories."""
        runtime = self.config.hydra.runtime
        dirs = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
        places = OmegaConf.to_container(self.config.paths, resolve=True)
        outputs = Path(self.config.paths.outputs).expanduser()
        return Planner(self._compose(), self.name, outputs, config_key(dirs, [str(places)]))

    def _compose(self) -> Callable[[Sequence[str]], DictConfig]:
        from hydra.types import RunMode

        def compose(overrides: Sequence[str]) -> DictConfig:
            loader = self.sweeper.loader
            config = loader.load_configuration(composing.PRIMARY, list(overrides), run_mode=RunMode.RUN)
            with open_dict(config):
                del config["hydra"]
                config.name = self.name
            return config

        return compose

    def plan(self, specs: Sequence[RunSpec]) -> list[Planned]:
        """The runs with their places."""
        return self.planner.plan(specs)

    def carry_out(
        self, planned: Sequence[Planned], title: str, *, unit: str = "seeds", only: Sequence[Planned] | None = None
    ) -> dict[Path, Failed]:
        """Run what is not finished, and show the progress.

        Args:
            planned: The runs that are shown.
            title: Shown above them.
            unit: What is counted for every arm.
            only: Those of the runs that are to be carried out.
        """
        retries = self.options["retries"]
        with StudyProgress(planned, title, unit=unit):
            return carry_out(
                planned if only is None else only,
                self._launch,
                reuse=self.options["reuse"],
                on_error=self.options["on_error"],
                retries=self.study.retries if retries is None else retries,
                at_once=getattr(self.sweeper.launcher, "workers", None) or 1,
            )

    def _launch(self, batch: Sequence[Sequence[str]], labels: Sequence[str]) -> list[Any]:
        """Hand a batch to Hydra's launcher; a job that raised counts as failed."""
        from hydra.core.utils import JobStatus

        jobs = [(*words, QUIET) for words in batch]
        names.update(zip(jobs, labels, strict=True))
        first, self.launched = self.launched, self.launched + len(jobs)
        results = []
        for result in self.sweeper.launcher.launch([list(words) for words in jobs], initial_job_idx=first):
            if result.status == JobStatus.COMPLETED:
                results.append(result.return_value)
            else:
                error = result._return_value
                results.append(Failure(f"{type(error).__name__}: {error}".splitlines()[0], 1, "error"))
        return results


def functions(config: DictConfig) -> Function:
    """Finds the functions that a study names, in the file of the experiment's method."""
    module = str(config.method._target_).rpartition(".")[0]
    return functions_of(module, list(config.get("allow") or ()))


def list_runs(planned: Sequence[Planned]) -> None:
    """Print the runs, their state and where they are."""
    width = max(len(run.spec.label) for run in planned)
    for run in planned:
        found, record = state(run.place)
        why = f"  {record['error']['message']}" if record and found == "failed" else ""
        word = MARKS[found] or "to do"
        print(f"{run.spec.label:<{width}}  {word:<8} {run.place.directory}{why}")

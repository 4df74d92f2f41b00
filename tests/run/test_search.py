"""Searches: the space, what is proposed, what is told, and going on where one stopped."""

from __future__ import annotations

import itertools
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hypothesis import example, given
from hypothesis import strategies as st

from replicata.errors import RunError, UserError
from replicata.run.failures import Failure
from replicata.run.sampling import Settings, mend, open_study
from replicata.run.search import Search
from replicata.run.space import Parameter, from_override, parse_space, text_of

Toy = Callable[..., Any]
Records = Callable[..., dict[Path, dict[str, Any]]]
OUTSIDE = Path(__file__).parents[1] / "outside"

NODE = {
    "metric": "val/acc",
    "direction": "maximize",
    "sampler": "tpe",
    "trials": 12,
    "parallel": 1,
    "seed": 0,
    "pruner": {"kind": "none", "min_epochs": 1, "min_trials": 5},
}
SPACE = {
    "x": {"type": "float", "low": -2.0, "high": 2.0},
    "y": {"type": "int", "low": 1, "high": 64, "log": True},
    "z": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.25},
}


# The space -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (3, "must be {type: ...}"),
        ({"type": "real"}, "type must be one of float, int, categorical"),
        ({"type": "float", "low": 0, "high": 1, "choices": [1]}, "choices: a float parameter has no such key"),
        ({"type": "float", "low": 1, "high": 0}, "low must be below high"),
        ({"type": "float", "low": 0.1}, "high must be a number, got None"),
        ({"type": "float", "low": 0.1, "high": float("inf")}, "high must be a number, got inf"),
        ({"type": "int", "low": 1, "high": 2.5}, "high must be a whole number"),
        ({"type": "int", "low": True, "high": 4}, "low must be a whole number"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "low must be above 0"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 0.1}, "both log and step"),
        ({"type": "float", "low": 1, "high": 2, "step": 3}, "step must be above 0 and fit"),
        ({"type": "float", "low": 1, "high": 2, "log": "yes"}, "log must be true or false"),
        ({"type": "categorical", "choices": []}, "at least one value"),
        ({"type": "categorical", "choices": "adam"}, "must be a list"),
        ({"type": "categorical", "choices": [1, True]}, "has a value twice"),
    ],
)
def test_a_wrong_parameter_is_named(spec: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_space({"optimizer.lr": spec})
    assert "search.space: optimizer.lr" in str(caught.value)
    assert said.replace("{type: ...}", "{type: ..., ...}") in str(caught.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="ascii"))


@example("\\")
@example("'")
@given(SCALARS | st.lists(SCALARS.filter(lambda value: not isinstance(value, str) or "\n" not in value), max_size=3))
def test_a_value_survives_the_command_line(value: Any) -> None:
    if "\n" in str(value) or "\r" in str(value):  # Hydra's overrides are single lines
        return
    override = OverridesParser.create().parse_override(f"key={text_of(value)}")
    assert override.value() == value or (isinstance(value, float) and math.isinf(value))


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("x=interval(0.1,2)", Parameter("x", "float", 0.1, 2.0)),
        ("x=tag(log,interval(1e-4,1e-1))", Parameter("x", "float", 1e-4, 1e-1, log=True)),
        ("x=int(interval(1,8))", Parameter("x", "int", 1, 8, step=1)),
        ("x=range(0,10,2)", Parameter("x", "int", 0, 8, step=2)),
        ("x=range(0,1,0.25)", Parameter("x", "float", 0.0, 0.75, step=0.25)),
        ("x=a,b", Parameter("x", "categorical", choices=("a", "b"), texts=("a", "b"))),
        (
            "+x=1,null,[2,3]",
            Parameter("+x", "categorical", choices=(1, None, "[2,3]"), texts=("1", "null", "[2,3]")),
        ),
    ],
)
def test_the_command_line_speaks_hydras_words(word: str, wanted: Parameter) -> None:
    assert from_override(OverridesParser.create().parse_override(word)) == wanted


def test_a_grid_has_every_point_and_its_ends() -> None:
    whole, parts, words = parse_space(
        {
            "a": {"type": "int", "low": 1, "high": 9, "step": 4},
            "b": {"type": "float", "low": 0.1, "high": 0.35, "step": 0.1},
            "c": {"type": "categorical", "choices": ["u", [1, 2]]},
        }
    )
    assert whole.grid() == [1, 5, 9]
    assert parts.grid() == [0.1, 0.2, 0.3]
    assert [words.override(value) for value in words.grid()] == ["c=u", "c=[1,2]"]
    with pytest.raises(UserError, match="no step"):
        Parameter("x", "float", 0.0, 1.0).grid()


# Ask and tell, without runs ------------------------------------------------------------------


class Launcher:
    """Computes instead of training.

    Args:
        value: Of a trial's overrides; what it raises goes through, as when the process is killed.
    """

    def __init__(self, value: Callable[[dict[str, Any]], Any]) -> None:
        self.value = value
        self.batches: list[list[int]] = []
        self.asked: list[dict[str, Any]] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append([])
        returned = []
        for job in jobs:
            words = dict(word.split("=", 1) for word in job)
            self.batches[-1].append(int(words["search.trial"]))
            self.asked.append({key: yaml.safe_load(words[key]) for key in SPACE if key in words})
            result = self.value({key: yaml.safe_load(value) for key, value in words.items()})
            done = {"val/acc": result} if isinstance(result, float) else result
            returned.append(JobReturn(_return_value=done, status=JobStatus.COMPLETED))
        return returned


def bowl(words: Mapping[str, Any]) -> float:
    return -((words["x"] - 0.5) ** 2) - 0.1 * math.log(words["y"] / 8) ** 2 - (words["z"] - 0.75) ** 2


def begin(
    folder: Path, value: Callable[[dict[str, Any]], Any] = bowl, space: Mapping[str, Any] = SPACE, **node: Any
) -> tuple[Search, Launcher]:
    launcher = Launcher(value)
    folder.mkdir(exist_ok=True)
    settings = Settings.of({**NODE, **node})
    runtime = SimpleNamespace(config_sources=[])
    sweeper = SimpleNamespace(
        launcher=launcher, config=SimpleNamespace(hydra=SimpleNamespace(runtime=runtime), search={})
    )
    study = open_study(folder, settings)
    return Search(sweeper, study, folder, settings, ["experiment=toy"], parse_space(space)), launcher


def told(folder: Path) -> list[tuple[dict[str, Any], float | None]]:
    trials = open_study(folder, Settings.of(NODE)).get_trials()
    return [(trial.params, trial.value) for trial in trials]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_seed_fixes_what_is_proposed(tmp_path: Path, sampler: str) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        begin(tmp_path / name, sampler=sampler, seed=seed)[0].run()
    assert told(tmp_path / "a") == told(tmp_path / "b")
    assert told(tmp_path / "a") != told(tmp_path / "c")
    points = [tuple(params.values()) for params, _ in told(tmp_path / "a")]
    assert len(set(points)) == len(points), "no trial repeats an earlier one's draw"


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_sampler_learns_from_what_it_is_told(tmp_path: Path, sampler: str) -> None:
    begin(tmp_path / "a", sampler=sampler, trials=40)[0].run()
    values = [value for _, value in told(tmp_path / "a") if value is not None]
    assert max(values) > -0.05
    assert sum(values[-15:]) / 15 > sum(values[:15]) / 15


def test_the_direction_is_that_of_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path / "a", value=lambda words: -bowl(words), direction="minimize", trials=15)[0].run()
    line = capsys.readouterr().out.splitlines()[-1]
    values = [value for _, value in told(tmp_path / "a")]
    best = told(tmp_path / "a")[values.index(min(values))][0]
    assert line == f"replicata run experiment=toy x={best['x']!r} y={best['y']} z={best['z']!r}"


class Killed(BaseException):
    """What a process that is killed does to the search."""


@pytest.mark.parametrize(("sampler", "parallel"), [("tpe", 1), ("tpe", 4), ("cmaes", 3), ("random", 2), ("grid", 2)])
def test_a_search_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, sampler: str, parallel: int) -> None:
    space = {"x": {"type": "categorical", "choices": [-1.0, 0.0, 1.0]}, "y": SPACE["y"] | {"high": 4}, "z": SPACE["z"]}
    space["y"] = {"type": "int", "low": 1, "high": 4}
    options = {"sampler": sampler, "parallel": parallel, "trials": 11, "space": space if sampler == "grid" else SPACE}
    begin(tmp_path / "whole", **options)[0].run()
    expected = told(tmp_path / "whole")
    assert len(expected) == 11
    folder = tmp_path / "pieces"
    left = 3  # trials until the next kill

    def dies(words: dict[str, Any]) -> float:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return bowl(words)

    for _ in range(50):
        search, _ = begin(folder, value=dies, **options)
        try:
            search.run()
            break
        except Killed:
            left = max(3, parallel)
            with (folder / "journal.log").open("ab") as journal:
                journal.write(b'{"op_code": 4, "worker')  # half a line
            (folder / "journal.log.lock").symlink_to("nowhere")
            mend(folder)
    assert told(folder) == expected


def test_more_trials_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    begin(tmp_path / "a", trials=5)[0].run()
    search, launcher = begin(tmp_path / "a", trials=8)
    search.run()
    assert launcher.batches == [[5], [6], [7]]
    begin(tmp_path / "b", trials=8)[0].run()
    assert told(tmp_path / "a") == told(tmp_path / "b")


def test_batches_are_proposed_together(tmp_path: Path) -> None:
    search, launcher = begin(tmp_path / "a", parallel=5)
    search.run()
    assert launcher.batches == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_a_grid_visits_each_point_once(tmp_path: Path) -> None:
    space = {
        "x": {"type": "categorical", "choices": [0.0, 1.0, 2.0]},
        "z": SPACE["z"],
        "y": {"type": "int", "low": 1, "high": 2},
    }
    search, launcher = begin(tmp_path / "a", space=space, sampler="grid", trials=7, parallel=3)
    search.run()
    assert len(launcher.asked) == 7
    assert len({point["x"] for point in launcher.asked}) == 3, "the first points are spread over the grid"
    rest, others = begin(tmp_path / "a", space=space, sampler="grid", trials=None)
    rest.run()
    points = [tuple(sorted(point.items())) for point in launcher.asked + others.asked]
    assert len(points) == len(set(points)) == 3 * 5 * 2
    again, nothing = begin(tmp_path / "a", space=space, sampler="grid", trials=None)
    again.run()
    assert not nothing.batches


def test_failed_and_pruned_trials_are_told_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = {
        1: Failure("the loss is not finite at batch 4", 1, "diverged"),
        2: Failure("pruned after epoch 2 of 4: val/acc 0.1", 1, "pruned"),
        3: float("nan"),
        4: ValueError("worker died"),
    }

    def value(words: dict[str, Any]) -> Any:
        return outcomes.get(words["search.trial"], bowl(words))

    search, launcher = begin(tmp_path / "a", value=value, trials=6)
    plain = launcher.launch

    def launch(jobs: Any, initial_job_idx: int) -> list[JobReturn]:
        results = plain(jobs, initial_job_idx)
        for result in results:
            if isinstance(result._return_value, Exception):
                result.status = JobStatus.FAILED
        return results

    launcher.launch = launch  # type: ignore[method-assign]
    search.run()
    states = [trial.state.name for trial in search.study.get_trials()]
    assert states == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL", "COMPLETE"]
    printed = capsys.readouterr()
    assert "trial 1 failed: the loss is not finite at batch 4" in printed.err
    assert "trial 3 failed: val/acc is not finite" in printed.err
    assert "trial 4 failed: ValueError: worker died" in printed.err
    assert "(2 finished, 1 pruned, 3 failed;" in printed.out


def test_a_run_that_another_process_is_at_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    turns = iter([1.0, Failure("in use", 2, "busy"), 2.0, Failure("in use", 2, "busy"), 3.0])
    search, launcher = begin(tmp_path / "a", value=lambda words: next(turns), trials=3, parallel=3)
    search.run()
    assert launcher.batches == [[0, 1, 2], [1], [1]]
    assert [value for _, value in told(tmp_path / "a")] == [1.0, 3.0, 2.0]


def test_a_trial_that_takes_its_process_with_it_is_given_up(tmp_path: Path) -> None:
    def value(words: dict[str, Any]) -> float:
        if words["search.trial"] == 1:
            raise Killed
        return bowl(words)

    def interrupted(words: dict[str, Any]) -> float:
        raise KeyboardInterrupt

    for kind, function in [(Killed, value)] + [(KeyboardInterrupt, interrupted)] * 3 + [(Killed, value)] * 2:
        with pytest.raises(kind):
            begin(tmp_path / "a", value=function, trials=3)[0].run()
    search, _ = begin(tmp_path / "a", value=value, trials=3)
    search.run()
    assert [trial.state.name for trial in search.study.get_trials()] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_mistakes_and_nothing_else_stop_the_search_and_are_forgotten(tmp_path: Path) -> None:
    search, launcher = begin(tmp_path / "a", value=lambda words: Failure("paths.data: no such folder", 2, "mistake"))
    with pytest.raises(UserError, match=r"no trial could begin: paths\.data"):
        search.run()
    assert len(launcher.batches) == 3
    assert not (tmp_path / "a" / "journal.log").exists()
    failing, _ = begin(tmp_path / "b", value=lambda words: Failure("diverged", 1, "diverged"), trials=4)
    with pytest.raises(RunError, match=r"no trial finished \(4 failed\)"):
        failing.run()


def test_a_metric_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"search.metric=val/acc is not .* did you mean 'val/accuracy'"):
        begin(tmp_path / "a", value=lambda words: {"val/accuracy": 1.0})[0].run()


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"sampler": "bohb"}, "search.sampler must be one of tpe"),
        ({"direction": "up"}, "search.direction must be one of maximize, minimize"),
        ({"trials": 0}, "search.trials must be a whole number of at least 1"),
        ({"trials": None}, "search.trials must be"),
        ({"parallel": 1.5}, "search.parallel must be"),
        ({"seed": -1}, "search.seed must be a whole number of at least 0"),
        ({"pruner": {"kind": "best", "min_epochs": 1, "min_trials": 1}}, "search.pruner.kind must be one of"),
        ({"pruner": {"kind": "none", "min_epochs": 0, "min_trials": 1}}, "search.pruner.min_epochs must be"),
    ],
)
def test_a_wrong_setting_is_named(node: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Settings.of({**NODE, **node})
    assert said in str(caught.value)


# With runs -----------------------------------------------------------------------------------

QUICK = ("search=adam", "trainer.max_epochs=1", "test=last")


def journal(folder: Path | str = "outputs") -> list[optuna.trial.FrozenTrial]:
    (path,) = Path(folder).glob("search/**/journal.log")
    return open_study(path.parent, Settings.of(NODE)).get_trials()


def test_the_best_overrides_can_be_pasted(toy: Toy, replicata: Toy, records: Records) -> None:
    searched = toy("toy", *QUICK, "search.trials=3", "--multirun")
    assert searched.status == 0, searched.err
    assert [trial.state.name for trial in journal()] == ["COMPLETE"] * 3
    best = max(journal(), key=lambda trial: trial.value)
    line = searched.out.splitlines()[-1]
    assert "search" not in line
    found = records()
    assert len(found) == 3
    assert {record["status"] for record in found.values()} == {"finished"}
    assert sorted(record["metrics"]["val/acc"] for record in found.values()) == sorted(t.value for t in journal())
    pasted = replicata(*shlex.split(line)[1:])
    assert pasted.status == 0
    assert "finished before" in pasted.out
    (directory,) = [path for path in found if str(path) in pasted.out]
    assert found[directory]["metrics"]["val/acc"] == best.value
    again = toy("toy", *QUICK, "search.trials=3")  # the space chooses the mode, too
    assert again.status == 0
    assert again.out.splitlines()[-1] == line
    assert "3 of 3 trials were done before" in again.err
    assert records() == found


def test_the_command_line_joins_the_space(toy: Toy, records: Records) -> None:
    words = ("optimizer.weight_decay=0.5", "model.hidden=choice(4,8)", "search.sampler=random")
    searched = toy("toy", *QUICK, "search.trials=2", *words)
    assert searched.status == 0, searched.err
    assert [set(trial.params) for trial in journal()] == [{"optimizer.lr", "model.hidden"}] * 2
    configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in records()]
    assert {config["optimizer"]["weight_decay"] for config in configs} == {0.5}
    assert {config["model"]["hidden"] for config in configs} <= {4, 8}


def test_a_diverging_trial_does_not_fail_the_search(toy: Toy) -> None:
    searched = toy(
        "toy", *QUICK, "search=default", "method.poison=choice(-1,3)", "search.sampler=grid", "search.trials=null"
    )
    assert searched.status == 0, searched.err
    assert sorted(trial.state.name for trial in journal()) == ["COMPLETE", "FAIL"]
    assert "method.poison=3  failed: " in searched.err
    assert searched.out.splitlines()[-1].endswith("method.poison=-1")


def test_another_question_is_another_search(toy: Toy) -> None:
    assert toy("toy", *QUICK, "search.trials=1").status == 0
    for words in (["method.sigma=0.3"], ["search.direction=minimize"]):
        assert toy("toy", *QUICK, "search.trials=1", *words).status == 0
    folders = {path.parent for path in Path("outputs/search").rglob("journal.log")}
    assert len(folders) == 3
    refused = toy("toy", *QUICK, "search.trials=1", "seed=7", f"search.storage={min(folders)}")
    assert refused.status == 2
    assert "holds another search" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search=adam", "search.metric=val/ac"], "did you mean 'val/acc'"),
        (["search=adam", "search.sampler=grid"], "optimizer.lr has no step"),
        (["search=adam", "search.sampler=cmaes"], "optimizer.weight_decay has choices; use tpe"),
        (["search=default"], "search.space is empty"),
        (["search=adam", "seed=0,1"], "seed is no hyperparameter"),
        (["search=adam", "search.trial=1"], "search.trial is set by the search itself"),
        (["search=adom"], "did you mean 'adam'"),
        (["search=default", "optimizer.lrr=choice(1,2)"], "optimizer.lrr is not a key"),
        (["search=adam", "hydra/sweeper=replicata_optuna", "~search"], "choose one with search="),
    ],
)
def test_a_mistake_is_one_line(toy: Toy, words: list[str], said: str) -> None:
    called = toy("toy", "trainer.max_epochs=1", *words, "--multirun")
    assert called.status == 2
    assert said in called.err.splitlines()[-1]
    assert "Traceback" not in called.err


def test_optuna_is_an_extra(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from replicata.run import sampling

    monkeypatch.setattr(sampling, "find_spec", lambda name: None)
    called = toy("toy", *QUICK)
    assert called.status == 2
    assert called.err == "replicata: a search needs optuna: pip install 'replicata[search]'\n"


def test_the_plugin_costs_nothing_at_the_start() -> None:
    code = "import sys, hydra_plugins.replicata_sweepers; sys.exit(bool({'optuna', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Pruning -------------------------------------------------------------------------------------

HOPELESS = (
    "search=default",
    "optimizer.lr=choice(0.03,1e-9)",
    "search.sampler=grid",
    "search.trials=null",
    "search.pruner.kind=median",
    "search.pruner.min_trials=1",
    "search.pruner.min_epochs=2",
    "trainer.max_epochs=6",
    "callbacks.checkpoint.every_n_batches=1",
)


def grid_seed_with_good_first() -> int:
    """The median needs a finished trial, so the good one has to come first."""
    import numpy as np

    return next(seed for seed in itertools.count() if np.random.default_rng(seed).permutation(2)[0] == 0)


def test_a_hopeless_trial_is_pruned_and_can_be_finished_by_hand(
    toy: Toy, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process: the journal is the channel."""
    monkeypatch.setenv("PYTHONPATH", str(OUTSIDE))
    seed = grid_seed_with_good_first()
    searched = toy("toy", *HOPELESS, f"search.seed={seed}", "launcher=local")
    assert searched.status == 0, searched.err
    good, pruned = journal()
    assert (good.state.name, pruned.state.name) == ("COMPLETE", "PRUNED")
    assert list(good.intermediate_values) == [1, 2, 3, 4, 5, 6]
    assert good.intermediate_values[6] == good.value
    assert list(pruned.intermediate_values) == [1, 2]
    ((directory, record),) = [item for item in records().items() if item[1]["status"] != "finished"]
    assert record["status"] == "pruned"
    assert record["error"]["kind"] == "pruned"
    assert record["error"]["message"].startswith("pruned after epoch 2 of 6: val/acc")
    assert "1 pruned" in searched.out
    finished = toy("toy", *HOPELESS[-2:], "optimizer.lr=1e-9")
    assert finished.status == 0, finished.err
    resumed = json.loads((directory / "run.json").read_text())
    assert (resumed["status"], resumed["resumed"]) == ("finished", 1)
    assert toy("toy", *HOPELESS[-2:], "optimizer.lr=1e-9", "paths.outputs=ref").status == 0
    ((_, undisturbed),) = records("ref").items()
    assert resumed["metrics"] == undisturbed["metrics"]
    assert len(journal()[1].intermediate_values) == 2, "a run by hand reports to no search"


def test_halving_keeps_the_better_part(tmp_path: Path) -> None:
    settings = Settings.of({**NODE, "pruner": {"kind": "halving", "min_epochs": 2, "min_trials": 5}})
    study = open_study(tmp_path, settings)
    pruned = []
    for quality in (0.9, 0.8, 0.1, 0.2):
        trial = study.ask()
        trial.report(quality, 1)
        assert not trial.should_prune(), "min_epochs are every trial's"
        trial.report(quality, 2)
        pruned.append(trial.should_prune())
    assert pruned == [False, True, True, True]


# A killed search -----------------------------------------------------------------------------


def test_a_killed_search_ends_as_an_undisturbed_one(toy: Toy, child: Toy, records: Records) -> None:
    words = (*QUICK, "search.trials=4", "search.parallel=2", "method.pause=0.01", "trainer.max_epochs=2")
    assert toy("toy", *words, "paths.outputs=whole").status == 0
    arguments = ["run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy", *words]
    for least in (2, 4):  # runs that have begun when it is killed
        killed = child(*arguments)
        killed.until(lambda least=least: len(records()) >= least)
        time.sleep(0.1)
        killed.kill()
    assert any(record["status"] == "running" for record in records().values())
    again = toy("toy", *words)
    assert again.status == 0, again.err
    assert [(t.params, t.value, t.state) for t in journal()] == [(t.params, t.value, t.state) for t in journal("whole")]
    assert len(records()) == len(records("whole")) == 4


# A W&B sweep from the same space -------------------------------------------------------------


def test_a_wandb_sweep_has_the_same_space(replicata: Toy) -> None:
    called = replicata("wandb-sweep", "mip", "experiment=adaptive/mip", "search.sampler=random", "--output", "s.yaml")
    assert called.status == 0, called.err
    text = Path("s.yaml").read_text()
    sweep = yaml.safe_load(text)
    assert text.startswith("# replicata wandb-sweep mip experiment=adaptive/mip search.sampler=random\n")
    assert "no median pruner" in text
    assert sweep["method"] == "random"
    assert sweep["metric"] == {"name": "val/acc_mean", "goal": "maximize"}
    assert sweep["project"] == "replicata"
    assert sweep["run_cap"] == 20
    assert sweep["parameters"]["rates.adam"] == {"distribution": "log_uniform_values", "min": 3e-4, "max": 1e-2}
    assert sweep["parameters"]["method.widths"] == {"values": ["[16,64]", "[32,128]", "[64]"]}
    assert sweep["parameters"]["method.residual"] == {"values": [True, False]}
    assert sweep["command"][-1] == "${args_no_hyphens}"
    assert replicata("wandb-sweep", "mip", "--output=s.yaml").status == 2, "nothing is overwritten"
    assert "did you mean" in replicata("wandb-sweep", "mop", "experiment=adaptive/mip").err


def test_the_kinds_of_parameters_in_a_wandb_sweep() -> None:
    ranges = {
        "a": ({"type": "float", "low": 0, "high": 1}, {"distribution": "uniform", "min": 0.0, "max": 1.0}),
        "b": ({"type": "float", "low": 0, "high": 1, "step": 0.5}, {"values": [0.0, 0.5, 1.0]}),
        "c": ({"type": "int", "low": 1, "high": 9}, {"distribution": "int_uniform", "min": 1, "max": 9}),
        "d": ({"type": "int", "low": 8, "high": 24, "step": 8}, {"values": [8, 16, 24]}),
        "e": (
            {"type": "int", "low": 1, "high": 64, "log": True},
            {"distribution": "q_log_uniform_values", "q": 1, "min": 1, "max": 64},
        ),
        "f": ({"type": "categorical", "choices": [1, 0.5, None, "it's"]}, {"values": [1, 0.5, "null", r"'it\'s'"]}),
    }
    for key, (spec, wanted) in ranges.items():
        assert parse_space({key: spec})[0].sweep() == wanted


def test_a_wandb_agent_runs_our_command(
    replicata: Toy, toy: Toy, records: Records, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command line that W&B's own agent makes of the sweep file, with values of its choice."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    wrote = replicata(
        "wandb-sweep",
        "adam",
        "--config-dir",
        OUTSIDE / "conf",
        "experiment=toy",
        "trainer.max_epochs=1",
        "search.pruner.kind=halving",
    )
    assert wrote.status == 0, wrote.err
    sweep = yaml.safe_load(Path("sweep-adam.yaml").read_text())
    assert sweep["early_terminate"] == {"type": "hyperband", "min_iter": 1, "eta": 4}
    chosen = {"optimizer.lr": {"value": 0.0123}, "optimizer.weight_decay": {"value": 1e-05}}
    assert set(chosen) == set(sweep["parameters"])
    given = create_sweep_command_args({"args": chosen}) | {"env": ["/usr/bin/env"]}
    line = [
        part
        for word in create_sweep_command(sweep["command"])
        for part in (given[word[2:-1]] if word.startswith("${") else [word])
    ]
    assert line[:3] == ["/usr/bin/env", "replicata", "run"]
    for name, value in {"MODE": "offline", "SWEEP_ID": "s1", "RUN_ID": "agentsid", "DATA_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    ran = replicata(*line[2:])
    assert ran.status == 0, ran.err
    ((directory, record),) = records().items()
    assert yaml.safe_load((directory / "config.yaml").read_text())["optimizer"]["lr"] == 0.0123
    assert record["status"] == "finished"
    (folder,) = (directory / "wandb").glob("offline-run-*")
    assert folder.name.endswith("-agentsid"), "the run is the one that the agent was given"

"""Tuning: what ``study.tuning`` may say, which trials follow from it, what they choose, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.errors import UserError
from replicata.run import compose as composing
from replicata.run.failures import Failure
from replicata.run.record import write_record
from replicata.study.parse import parse
from replicata.study.run import Place
from replicata.study.schema import Study, Tuning
from replicata.study.tuning import (
    Outcome,
    Tuned,
    content,
    differing,
    outcome,
    read_file,
    trials,
    tuning_path,
    write,
)

STUDY = """
seeds: 3
factors: {optimizer: {adam: [], sgd: [optimizer=sgd]}, size: {big: [data.n=100]}}
arms:
  new: {overrides: [method=new], panel: [half]}
  old: [method=old]
  adam_only: {overrides: [method=none], where: {optimizer: adam}}
tracks:
  other: {overrides: [task=lm], seeds: [7], arms: {lm: [method=lm]}}
groups: {all: {arms: [new, old], reduce: mean}}
derived:
  best_loss: {curve: val/loss, reduce: min}
  test_loss: {curve: test/loss, reduce: min}
  val/gain: {function: gain, from: [old]}
tuning:
  - {seeds: [100], metric: val/acc, mode: max, where: {optimizer: adam}, grid: {rates.adam: [1e-3, 0.01, 0.1]}}
  - {seeds: [100, 101], metric: best_loss, mode: min, arms: [all], where: {optimizer: sgd},
     grid: {rates.sgd: [0.1, 1], model.bias: [true, null], model.widths: [[4], [4, 8]]}}
  - {seeds: [100], metric: val/acc, mode: max, arms: [lm], grid: {rates.adam: [0.01, 0.1]}}
"""


def study(**first: Any) -> Study:
    """The study above, its first entry of tuning changed."""
    node = yaml.safe_load(STUDY)
    entry = node["tuning"][0] | first
    node["tuning"][0] = {key: value for key, value in entry.items() if value != "gone"}
    return parse(node, "toy/tuned")


READ = study()


# What is read, and what is refused ------------------------------------------------------------


def test_an_entry_is_about_all_arms_that_run_at_its_levels_unless_it_names_some() -> None:
    adam, sgd, language = study().tuning
    assert adam == Tuning(
        arms=("new", "old", "adam_only"),
        seeds=(100,),
        metric="val/acc",
        higher=True,
        grid={"rates.adam": (0.001, 0.01, 0.1)},
        where={"optimizer": "adam"},
    )
    assert sgd.arms == ("new", "old")
    assert (language.arms, language.where) == (("lm",), {})
    assert study(where={"optimizer": "sgd"}, grid={"a.b": [1, 2]}).tuning[0].arms == ("new", "old")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [100, 2]}, r"seeds: 2 is a seed of the study \(arm 'new'\); tune on others"),
        ({"seeds": [7]}, r"seeds: 7 is a seed of the study \(arm 'lm'\)"),
        ({"seeds": 100}, r"seeds must be a list of seeds that the study does not have"),
        ({"seeds": [100, 100]}, "seeds must be a number of seeds or a list of different ones"),
        ({"metric": "test/acc"}, r"metric must be a metric of the validation split, val/\.\.\., got 'test/acc'"),
        ({"metric": "test_loss"}, r"metric must be a metric of the validation split, .* got 'test/loss'"),
        ({"metric": "val/gain"}, "metric: 'val/gain' is derived from other arms"),
        ({"metric": "gone"}, r"tuning\[0\].metric is missing"),
        ({"mode": "best"}, "mode cannot be 'best'; choose one of: max, min"),
        ({"grid": "gone"}, "grid is missing"),
        ({"grid": {"lr": [1, 2]}}, "grid.lr is no key of the config"),
        ({"grid": {"optimizer.lr": 0.1}}, "grid.optimizer.lr must be a list of the values to try, got 0.1"),
        ({"grid": {"optimizer.lr": [0.1, 1e-1]}}, "grid.optimizer.lr names a value twice"),
        ({"grid": {"optimizer.lr": [0.1, float("inf")]}}, "grid.optimizer.lr must hold finite numbers"),
        ({"grid": {"optimizer.lr": [{"a": 1}]}}, "grid.optimizer.lr must hold plain values"),
        ({"grid": {"optimizer.lr": [0.1]}}, "grid has a single setting"),
        ({"arms": ["nwe"]}, "arms: there is no arm 'nwe'; did you mean 'new'"),
        ({"arms": ["half"]}, "arms: 'half' is reported by 'new'"),
        ({"arms": ["adam_only"], "where": {"optimizer": "sgd"}}, "arm 'adam_only' is not run at 'sgd'"),
        ({"where": {"optimizer": "sdg"}}, "factor optimizer has no level 'sdg'; did you mean 'sgd'"),
        ({"where": {"optimiser": "sgd"}}, "where.optimiser is not known; did you mean 'optimizer'"),
        ({"where": "gone"}, r"tunes arm 'new' at several levels of 'optimizer' as one; say where"),
        ({"arms": ["all"], "where": {"optimizer": "sgd"}, "grid": {"rates.sgd": [1, 2]}}, "is tuned for arm 'new' by"),
        ({"trials": 5}, r"tuning\[0\].trials is not known"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        study(**change)
    assert str(caught.value).startswith("toy/tuned: study.tuning")
    assert "\n" not in str(caught.value)


def test_the_node_is_a_list() -> None:
    with pytest.raises(UserError, match=r"toy/tuned: study.tuning must be a list of entries with seeds, metric"):
        parse({"seeds": 1, "arms": {"a": []}, "tuning": {"seeds": [100]}}, "toy/tuned")
    assert parse({"seeds": 1, "arms": {"a": []}}, "toy/tuned").tuning == ()


# Trials ---------------------------------------------------------------------------------------


def test_every_arm_gets_the_same_trials() -> None:
    toy = study()
    for entry in toy.tuning:
        by_arm = {arm: [] for arm in entry.arms}
        for trial in trials(toy, entry):
            by_arm[trial.arm].append((trial.seed, trial.values))
        assert len({json.dumps(tried) for tried in by_arm.values()}) == 1
        assert len(by_arm[entry.arms[0]]) == len(entry.seeds) * len(entry.settings())


def test_a_trial_is_the_arm_with_the_values_after_its_literals() -> None:
    toy = study()
    first = trials(toy, toy.tuning[1], ["trainer.max_epochs=1"])[0]
    assert first.overrides == (
        "experiment=toy/tuned",
        "optimizer=sgd",
        "data.n=100",
        "method=new",
        "rates.sgd=0.1",
        "model.bias=true",
        "model.widths=[4]",
        "trainer.max_epochs=1",
        "seed=100",
    )
    label = "new optimizer=sgd size=big rates.sgd=1 model.bias=null model.widths=[4, 8] seed 101"
    assert label in [trial.label for trial in trials(toy, toy.tuning[1])]
    assert first.tag == "new-sgd-big-tuning"
    assert {trial.arm for trial in trials(toy, toy.tuning[0], arms=["half", "lm"])} == {"new"}


def test_the_command_line_cannot_set_what_is_tried() -> None:
    toy = study()
    with pytest.raises(UserError, match=r"'\+rates.adam=1' sets what study.tuning tries"):
        trials(toy, toy.tuning[0], ["+rates.adam=1"])


# What is chosen -------------------------------------------------------------------------------


def tuned(values: dict[str, list[float | None]], entry: int = 0, toy: Study | None = None) -> Tuned:
    """Outcomes from the values of each arm's trials, in their order."""
    toy = toy or READ
    left = {arm: list(column) for arm, column in values.items()}
    outcomes = []
    for trial in trials(toy, toy.tuning[entry], arms=list(values)):
        value = left[trial.arm].pop(0)
        status, reason = ("diverged", "loss is nan") if value is None else ("finished", "")
        outcomes.append(Outcome(trial, status, value, reason, f"h-{trial.arm}", 1.26))
    return Tuned(toy.tuning[entry], outcomes)


def test_the_best_is_chosen_and_the_edge_of_the_grid_is_named() -> None:
    found = tuned({"new": [0.1, 0.9, 0.5], "old": [0.3, 0.3, 0.2], "adam_only": [0.1, 0.2, 0.3]})
    assert found.chosen == {"new": {"rates.adam": 0.01}, "old": {"rates.adam": 0.001}, "adam_only": {"rates.adam": 0.1}}
    assert [found.edges(arm) for arm in found.arms] == [{}, {"rates.adam": "lowest"}, {"rates.adam": "highest"}]


def test_a_trial_without_a_value_is_the_worst() -> None:
    assert tuned({"new": [None, 0.0, None]}).best("new") == {"rates.adam": 0.01}
    assert tuned({"new": [None, None, None]}).best("new") is None
    # of two seeds: the first setting has the lowest loss, and one of its trials diverged
    lower = tuned({"new": [0.0, 0.2, *[0.5] * 6, None, 0.2, *[0.5] * 6]}, entry=1)
    assert lower.best("new") == {"rates.sgd": 0.1, "model.bias": True, "model.widths": [4, 8]}
    assert lower.edges("new") == {"rates.sgd": "lowest"}


@settings(max_examples=40)
@given(
    st.lists(st.none() | st.floats(-1e3, 1e3), min_size=16, max_size=16),
    st.permutations(range(8)),
)
def test_no_setting_beats_the_chosen_one(values: list[float | None], order: list[int]) -> None:
    found = tuned({"old": values}, entry=1)
    best = found.best("old")
    scores = [found.score("old", setting) for setting in found.entry.settings()]
    measured = [score for score in scores if score is not None]
    assert (best is None) == (not measured)
    if best is not None:
        assert found.score("old", best) == min(measured)
    # and the order of the trials does not matter
    outcomes = [found.outcomes[seed * 8 + at] for at in order for seed in (0, 1)]
    assert Tuned(found.entry, outcomes).best("old") == best


def record(folder: Path, **kept: Any) -> Place:
    write_record(folder, {"status": "finished", "code": "c", "seconds": 2.0, **kept})
    return Place(folder, "abc", "c", ())


def test_a_value_is_that_of_the_weights_that_are_tested(tmp_path: Path) -> None:
    toy = study()
    entry = toy.tuning[0]
    trial = trials(toy, entry)[0]
    kept = {"metrics": {"val/acc": 0.5}, "selected": {"metrics": {"val/acc": 0.8}}}
    assert outcome(toy, entry, trial, record(tmp_path, test="last", **kept)).value == 0.5
    assert outcome(toy, entry, trial, record(tmp_path, test="best", **kept)).value == 0.8


def test_what_is_declared_missing_is_not_measured(tmp_path: Path) -> None:
    node = yaml.safe_load(STUDY) | {"missing": {"val/acc": 0.99}}
    toy = parse(node, "toy/tuned")
    entry = toy.tuning[0]
    trial = trials(toy, entry)[0]
    place = record(tmp_path, status="failed", error={"kind": "diverged", "message": "loss is nan"})
    found = outcome(toy, entry, trial, place)
    assert (found.status, found.value, found.reason) == ("diverged", None, "loss is nan")
    found = outcome(toy, entry, trial, record(tmp_path, metrics={"val/loss": 0.1}))
    assert (found.status, found.value) == ("finished", None)
    assert found.reason.startswith("no run has a metric 'val/acc'; did you mean")
    found = outcome(
        toy, entry, trial, Place(tmp_path / "none", "abc", "c", ()), problem=Failure("no memory", 1, "killed")
    )
    assert (found.status, found.reason) == ("failed", "no memory")
    found = outcome(toy, entry, trial, Place(tmp_path / "none", "abc", "c", ()), problem=Failure("x", 1, "diverged"))
    assert (found.status, found.reason) == ("diverged", "x")


# The file -------------------------------------------------------------------------------------


def test_the_file_keeps_arms_that_were_not_tried_again(tmp_path: Path) -> None:
    toy = study()
    path = tuning_path(tmp_path, toy.name)
    assert read_file(path) is None
    both = tuned({"new": [0.1, 0.9, 0.5], "old": [0.3, None, 0.2], "adam_only": [1, 2, 3]})
    write(path, content(toy, [both]))
    before = path.read_bytes()
    write(path, content(toy, [both]))
    assert path.read_bytes() == before

    again = content(toy, [tuned({"new": [0.9, 0.1, 0.5]})], before=read_file(path))["entries"][0]
    old = read_file(path)["entries"][0]  # type: ignore[index]
    assert again["chosen"] == old["chosen"] | {"new": {"rates.adam": 0.001}}
    assert again["trials"][3:] == old["trials"][3:]
    assert [trial["value"] for trial in again["trials"][:6]] == [0.9, 0.1, 0.5, 0.3, None, 0.2]
    assert old["trials"][4]["reason"] == "loss is nan"

    # not where they are trials of something else
    other = study(grid={"rates.adam": [0.001, 0.02, 0.1]})
    fresh = content(other, [tuned({"new": [1, 2, 3]}, toy=other)], before=read_file(path))["entries"][0]
    assert list(fresh["chosen"]) == ["new"]
    longer = content(toy, [tuned({"new": [1, 2, 3]})], ["trainer.max_epochs=9"], read_file(path))
    assert longer["overrides"] == ["trainer.max_epochs=9"]
    assert list(longer["entries"][0]["chosen"]) == ["new"]


def test_the_file_has_a_line_for_every_trial(tmp_path: Path) -> None:
    path = tmp_path / "results" / "t.json"
    write(path, content(study(), [tuned({"new": [0.1, 0.123456789, None]})]))
    lines = [line.strip() for line in path.read_text().splitlines() if '"seed":' in line]
    assert lines[1] == (
        '{"arm": "new", "values": {"rates.adam": 0.01}, "seed": 100, "value": 0.123457,'
        ' "status": "finished", "hash": "h-new", "seconds": 1.3},'
    )
    assert len(lines) == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}'])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(UserError, match="move it away and tune again"):
        read_file(path)


# The command ----------------------------------------------------------------------------------


@pytest.fixture
def tune(toy: Any, replicata: Callable[..., Any]) -> Callable[..., Any]:
    """``replicata tune tuned``, from the folder of configs that the tests have."""
    folder = Path(__file__).parents[1] / "outside" / "conf"
    return lambda *arguments: replicata("tune", "--config-dir", folder, "tuned", *arguments)


def test_tuning_is_shown_kept_and_not_repeated(tune: Callable[..., Any], records: Callable[..., Any]) -> None:
    planned = tune("--dry-run", "--arms", "plain,poisoned")
    assert planned.status == 0, planned.err
    assert planned.out.count("to do") == 4
    assert not Path("results").exists()

    done = tune("--arms", "plain,poisoned")
    assert done.status == 1
    assert "\n  plain     0.0001        1.3" in done.out
    assert "chosen, at the edge of the grid: highest optimizer.lr" in done.out
    assert "the arms have the chosen values" in done.out
    said = "poisoned noise=low optimizer.lr=0.03 seed 100 failed: train/loss is not finite at batch 4"
    assert done.err.count(said) == 1
    listed = done.err.partition("failed runs:\n")[2]
    assert "  poisoned noise=low optimizer.lr=0.03 seed 100    loss not finite  train/loss is not finite" in listed
    assert done.err.splitlines()[-1].endswith("nothing can be chosen for poisoned: no trial has a value")
    entry = json.loads(Path("results/tuned_tuning.json").read_text())["entries"][0]
    assert entry["chosen"] == {"plain": {"optimizer.lr": 0.03}, "poisoned": None}
    hashes = {trial["hash"] for trial in entry["trials"]}
    assert hashes == {path.parent.name for path in records()}

    before = {path: (path / "run.json").stat().st_mtime_ns for path in records()}
    again = tune("--arms", "plain,poisoned")
    assert (again.status, again.out) == (done.status, done.out)
    assert said not in again.err
    assert again.err.endswith("failed runs:\n" + listed)
    assert {path: (path / "run.json").stat().st_mtime_ns for path in records()} == before  # diverged ones as well


def test_values_that_differ_are_to_be_typed_in(tune: Callable[..., Any], records: Callable[..., Any]) -> None:
    done = tune("--arms", "small")
    assert done.status == 0, done.err
    assert "type these into the arms:\n  small: optimizer.lr=0.03 (it has 0.01)\n" in done.out
    assert "small: model.hidden=" in done.out
    assert "tuned: the highest val/acc of 2 settings, noise=high, seed 101" in done.out
    assert len(records()) == 2 + 2


def test_a_trial_that_fails_leaves_the_others_alone(tune: Callable[..., Any]) -> None:
    failing = "study.tuning=[{seeds: [100], metric: val/loss, mode: min, arms: [plain], where: {noise: low},"
    assert tune(failing + " grid: {method.sigma: [-1, -2]}}]").err.splitlines()[-1].endswith("nothing is written")
    assert not Path("results").exists()
    done = tune(failing + " grid: {method.sigma: [-1, 0.5]}}]")
    assert done.status == 1
    assert "plain noise=low method.sigma=-1 seed 100 failed: method.sigma must be >= 0" in done.err
    assert done.err.splitlines()[-1].endswith("1 of 2 trials failed and count as worst")
    assert "0.5           " in done.out
    entry = json.loads(Path("results/tuned_tuning.json").read_text())["entries"][0]
    assert entry["chosen"] == {"plain": {"method.sigma": 0.5}}
    assert [trial["status"] for trial in entry["trials"]] == ["failed", "finished"]


def test_stages_of_trials_come_first_and_once(
    toy: Any, replicata: Callable[..., Any], records: Callable[..., Any]
) -> None:
    folder = Path(__file__).parents[1] / "outside" / "conf"
    done = replicata("tune", "--config-dir", folder, "chain_tuned", "launcher=local")
    assert done.status == 1
    entries = json.loads(Path("results/chain_tuned_tuning.json").read_text())["entries"]
    assert [len(entry["trials"]) for entry in entries] == [8, 4, 2]
    assert all(value is not None for entry in entries[:2] for value in entry["chosen"].values())
    assert entries[2]["chosen"] == {"broken": None}

    found = {directory: record for directory, record in records().items() if record["name"] != "chain_tuned"}
    parents = [record for record in found.values() if record["name"].endswith("/parent")]
    # for seed 100 at sigma 0.1, at 0.2, poisoned; for seed 101 at 0.2
    assert len(parents) == 4
    assert len(found) == 4 + 1, "and one grandparent, which has a seed of its own"
    assert all(record["resumed"] == 0 for record in found.values())
    first = min(record["started"] for record in records().values() if record["name"] == "chain_tuned")
    assert all(record["ended"] <= first for record in found.values())

    listed = done.err.partition("failed runs:\n")[2].splitlines()
    assert len(listed) == 2 + 1
    for line in listed[:2]:
        assert "loss not finite  not started, its stage failed: train/loss is not finite at batch 4" in line
    assert done.err.count("replicata: stage parent of broken optimizer.lr=0.001 seed 100 failed: train/loss") == 1
    again = replicata("tune", "--config-dir", folder, "chain_tuned", "launcher=local")
    assert (again.status, again.out) == (done.status, done.out)
    assert "of broken optimizer.lr=0.001 seed 100 failed" not in again.err, "it would come to the same end"


def test_mistakes_are_named_before_anything_is_kept(tune: Callable[..., Any], replicata: Callable[..., Any]) -> None:
    for words, line in [
        (["--claims", "a"], "--claims is no option of `replicata tune`"),
        (["optimizer.lr=0.1"], "'optimizer.lr=0.1' sets what study.tuning tries; take it out"),
        (["study.tuning=null"], "tuned has no study.tuning"),
        (["--arms=plain", "study.tuning.0.metric=val/los"], "no run has a metric 'val/los'; did you mean 'val/loss'"),
        (["--arms=plain", "study.tuning.0.grid={optimizer.rl: [1, 2]}"], "optimizer.rl"),
    ]:
        done = tune(*words)
        assert done.status == 2, (words, done.err)
        assert line in done.err.splitlines()[-1]
    smoke = tune("--arms=plain", "--smoke")
    assert smoke.status == 0, smoke.err
    assert "choose nothing" in smoke.err
    assert not Path("results").exists()
    assert replicata("tune").err.startswith("replicata: usage: replicata tune <family>/<slug>")


# The committed files --------------------------------------------------------------------------


TUNED = [
    name
    for name, path in composing.experiments([composing.config_dir()])
    if (composing.read(path).get("study") or {}).get("tuning")
    and tuning_path(composing.config_dir().parent, name).exists()
]

# What an arm has where it is not what its tuning chose, and why.
OTHERWISE: dict[str, dict[str, dict[str, Any]]] = {
    # The largest lambda within a point of the full network's accuracy; trials are ranked by accuracy alone.
    "efficient/maestro": {"maestro": {"method.group_lasso": 0.0003}},
    # The arms of a graph share what is best on average over them.
    "graph/ncn": {
        "ncn": {"data.batch_size": 1024},
        "gae": {"optimizer.lr": 0.002, "data.batch_size": 1024},
    },
    # One rate for all classifiers, the best on average.
    "language/tminer": {"clean": {"optimizer.lr": 0.002}},
    # In the study all folds but the tested one train; the fold held out is for tuning.
    "language/featherweight": {"lavdnn": {"data.val_fold": None}},
}


@pytest.mark.parametrize("name", TUNED)
def test_committed_tuning_is_what_the_arms_have(name: str) -> None:
    config = composing.compose([f"experiment={name}"])
    toy = parse(config.study, name)
    kept = read_file(tuning_path(composing.config_dir().parent, name))
    assert kept is not None
    assert kept["overrides"] == []
    assert content(toy, [Tuned(entry, []) for entry in toy.tuning], before=kept) == kept
    other: dict[str, dict[str, Any]] = {}
    for entry, found in zip(toy.tuning, kept["entries"], strict=True):
        tried = {arm: [(t["values"], t["seed"]) for t in found["trials"] if t["arm"] == arm] for arm in found["chosen"]}
        made = [one for one in tried.values() if one]  # an arm may not have been tuned yet
        assert all(one == made[0] for one in made)
        assert all(len(one) == len(entry.seeds) * len(entry.settings()) for one in made)
        other |= differing(toy, entry, found["chosen"], composing.compose)
    assert other == OTHERWISE.get(name, {})

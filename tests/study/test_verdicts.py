"""Results files: what is in them, that they stay the same, and when they no longer belong to the configs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from replicata.errors import UserError
from replicata.study import verdicts
from replicata.study.claims import evaluate
from replicata.study.parse import parse
from replicata.study.plan import expand
from replicata.study.schema import Study
from replicata.study.table import Table, rows

NODE: dict[str, Any] = {
    "seeds": 3,
    "factors": {"data": {"x": ["data=x"], "y": ["data=y"]}},
    "arms": {"new": {"panel": ["half"]}, "old": ["method=old"]},
    "claims": [
        {
            "id": "better",
            "statement": "New is better.",
            "paper": {"new": 84.4, "old": 81.5},
            "test": {"kind": "greater", "metric": "test/acc", "arm": "new", "than": "old", "over": {"data": "each"}},
        },
        {
            "id": "half_as_good",
            "statement": "Half is no worse.",
            "role": "report",
            "given": [{"kind": "threshold", "metric": "val/acc", "arm": "new", "above": 0.5, "over": {"data": "mean"}}],
            "test": {
                "kind": "noninferior",
                "metric": "test/acc",
                "arm": "half",
                "than": "new",
                "margin": 0.01,
                "where": {"data": "x"},
            },
        },
    ],
}
HARDWARE = {"machine": "x86_64", "processor": "Some CPU", "cores": 2, "memory_gb": 7.8, "gpus": []}


@pytest.fixture
def study() -> Study:
    return parse(copy.deepcopy(NODE), "toy/results")


@pytest.fixture
def table(study: Study) -> Table:
    found = []
    for spec in expand(study):
        acc = 0.8 + 0.1 * (spec.arm == "new") + spec.seed / 300 + 0.002 * (spec.arm == "new") * spec.seed**2
        record: dict[str, Any] = {
            "status": "finished",
            "hash": f"{spec.arm}-{spec.levels[0][1]}",
            "code": "c0de",
            "metrics": {"test/acc": acc, "val/acc": 0.9, "train/loss": 0.1},
            "arms": {"half": {"test/acc": acc}} if spec.arm == "new" else {},
            "versions": {"torch": "2.14.1", "replicata": "0.1.0"},
            "hardware": HARDWARE,
            "seconds": 2.5,
            "ended": f"2026-11-25T10:00:0{spec.seed}+00:00",
        }
        if (spec.arm, spec.seed) == ("old", 2):
            record |= {"status": "failed", "metrics": {}, "error": {"message": "no memory", "kind": "killed"}}
        found += rows(study, spec, record)
    return Table(study, found)


@pytest.fixture
def results(study: Study, table: Table) -> dict[str, Any]:
    return verdicts.build(study, table, evaluate(study, table), reconstructed=True)


def test_verdicts_come_back_from_a_results_file(study: Study, table: Table, tmp_path: Path) -> None:
    given = evaluate(study, table)
    verdicts.write(tmp_path / "r.json", verdicts.build(study, table, given, reconstructed=False))
    restored = verdicts.restore(verdicts.read(tmp_path / "r.json"))
    assert [(v.id, v.verdict, v.n, v.region, v.reason, v.role) for v in restored] == [
        (v.id, v.verdict, v.n, v.region, v.reason, v.role) for v in given
    ]
    assert [[part.test for part in v.parts] for v in restored] == [[part.test for part in v.parts] for v in given]
    for one, other in zip(restored, given, strict=True):
        assert one.effect == pytest.approx(other.effect, rel=1e-5)
        assert one.interval == (other.interval and pytest.approx(other.interval, rel=1e-5))


def test_an_open_interval_comes_back() -> None:
    claim = {"id": "x", "statement": "s", "verdict": "holds", "effect": 3.0, "interval": [1.5, None], "n": 5}
    (restored,) = verdicts.restore(
        {"claims": [{**claim, "region": "> 1", "method": "odds", "role": "claim", "paper": None}]}
    )
    assert restored.interval == (1.5, float("inf"))


def test_a_results_file_holds_what_a_verdict_stands_on(results: dict[str, Any]) -> None:
    better, half = results["claims"]
    assert (better["id"], better["verdict"], better["n"]) == ("better", "inconclusive", 2)
    assert better["reason"].startswith("old data=x seed 2 failed: no memory")
    assert better["paper"] == {"new": 84.4, "old": 81.5}
    assert [part["test"] for part in better["parts"]] == [
        "test/acc: new - old > 0, data=x",
        "test/acc: new - old > 0, data=y",
    ]
    assert (half["verdict"], half["role"], half["effect"], half["interval"]) == ("holds", "report", 0.0, [0.0, 0.0])
    assert list(results["arms"]) == ["new", "half", "old"]
    assert results["arms"]["half"]["reported_by"] == "new"
    old = results["arms"]["old"]["runs"][0]
    assert old == {
        "levels": {"data": "x"},
        "hash": "old-x",
        "code": "c0de",
        "seeds": [0, 1, 2],
        "seconds": 7.5,
        "metrics": {"test/acc": [0.8, 0.803333, None], "val/acc": [0.9, 0.9, None]},
        "unfinished": {"2": "failed: no memory"},
    }
    assert results["hardware"] == ["x86_64, Some CPU, 2 cores, no GPU"]
    assert results["versions"] == {"replicata": "0.1.0", "torch": "2.14.1"}
    assert (results["seconds"], results["ended"]) == (30.0, "2026-11-25T10:00:02+00:00")
    assert (results["reconstructed"], results["scale"], results["overrides"]) == (True, "laptop", [])


def test_the_same_runs_give_the_same_file(study: Study, table: Table, results: dict[str, Any], tmp_path: Path) -> None:
    path = verdicts.results_path(tmp_path, study.name)
    assert path == tmp_path / "results" / "toy" / "results.json"
    verdicts.write(path, results)
    first = path.read_bytes()
    again = Table(study, reversed(list(table)))
    verdicts.write(path, verdicts.build(study, table, evaluate(study, again), reconstructed=True))
    assert path.read_bytes() == first
    assert verdicts.read(path) == json.loads(first) == json.loads(json.dumps(results))
    assert b'"seeds": [0, 1, 2],' in first
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]


def of_arms(study: Study, table: Table, *arms: str) -> dict[str, Any]:
    """The results as a study with --arms leaves them."""
    some = Table(study, [row for row in table if study.variant(row.arm)[0].name in arms])
    given = [verdict for verdict in evaluate(study, table) if arms == ("new",) and verdict.id == "half_as_good"]
    return verdicts.build(study, some, given, reconstructed=True)


def test_arms_that_are_run_later_join_those_of_before(study: Study, table: Table, results: dict[str, Any]) -> None:
    whole = json.loads(json.dumps(results))
    for arm in ("new", "old"):
        assert verdicts.joined(whole, of_arms(study, table, arm), study) == whole, "the same runs again"
    new, old = (of_arms(study, table, arm) for arm in ("new", "old"))
    both = verdicts.joined(json.loads(json.dumps(new)), old, study)
    assert (both["arms"], both["seconds"]) == (whole["arms"], whole["seconds"])
    assert [claim["id"] for claim in both["claims"]] == ["half_as_good"], "better needs both arms at once"


def test_a_claim_falls_when_its_arm_comes_out_otherwise(study: Study, table: Table, results: dict[str, Any]) -> None:
    before = json.loads(json.dumps(results))
    before["arms"]["old"]["runs"][0]["metrics"]["test/acc"][0] = 0.5
    after = verdicts.joined(before, of_arms(study, table, "old"), study)
    assert [claim["id"] for claim in after["claims"]] == ["half_as_good"]
    assert after["arms"] == json.loads(json.dumps(results["arms"]))


def test_where_all_arms_are_new_nothing_is_said_of_the_runs_before(study: Study, table: Table, results: Any) -> None:
    before = json.loads(json.dumps(results)) | {"hardware": ["another"], "versions": {"torch": "1"}, "seconds": 1e6}
    assert verdicts.joined(before, results, study) == json.loads(json.dumps(results))
    some = verdicts.joined(before, of_arms(study, table, "old"), study)
    assert "another" in some["hardware"]


@pytest.mark.parametrize(("key", "value"), [("scale", "paper"), ("overrides", ["a=1"]), ("reconstructed", False)])
def test_results_of_other_runs_are_not_joined(
    study: Study, table: Table, results: dict[str, Any], key: str, value: Any
) -> None:
    some = of_arms(study, table, "old")
    assert verdicts.joined({**results, key: value}, some, study) == some


def test_parts_of_parts_are_kept(table: Table) -> None:
    node = copy.deepcopy(NODE)
    test = node["claims"][0].pop("test")
    node["claims"][0]["all"] = [test, test | {"kind": "noninferior", "margin": 0.1}]
    study = parse(node, "toy/results")
    (better, _) = verdicts.build(study, table, evaluate(study, table), reconstructed=False)["claims"]
    assert [[inner["test"] for inner in part["parts"]] for part in better["parts"]] == [
        ["test/acc: new - old > 0, data=x", "test/acc: new - old > 0, data=y"],
        ["test/acc: new - old >= -0.1, data=x", "test/acc: new - old >= -0.1, data=y"],
    ]


def test_open_ends_are_null_in_json(tmp_path: Path) -> None:
    claim = {"id": "c", "statement": "s", "test": {"kind": "greater", "metric": "m", "arm": "a", "than": "b"}}
    study = parse({"seeds": 5, "arms": {"a": [], "b": []}, "claims": [claim]}, "toy/odds")
    records = [{"status": "finished", "metrics": {"m": float(spec.arm == "a")}} for spec in expand(study)]
    table = Table(study, [row for spec, r in zip(expand(study), records, strict=True) for row in rows(study, spec, r)])
    built = verdicts.build(study, table, evaluate(study, table), reconstructed=False)
    verdicts.write(tmp_path / "x.json", built)
    claim = verdicts.read(tmp_path / "x.json")["claims"][0]
    assert (claim["verdict"], claim["effect"], claim["interval"][1]) == ("holds", None, None)


def test_unreadable_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, message in ((None, "there are no results"), ("{", "cannot be read"), ("[]", "is no results file")):
        if text is not None:
            path.write_text(text)
        with pytest.raises(UserError, match=message):
            verdicts.read(path)


def current(results: dict[str, Any]) -> dict[Any, tuple[str, str]]:
    return {
        (arm, tuple(run["levels"].items())): (run["hash"], run["code"])
        for arm, content in results["arms"].items()
        for run in content["runs"]
        if "reported_by" not in content
    }


def test_results_of_the_current_configs_are_fresh(study: Study, results: dict[str, Any]) -> None:
    assert verdicts.changes(results, study, current(results)) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("claims", 0, "test", "by"), 0.01, ["claim better is tested in another way"]),
        (("claims", 1, "given", 0, "above"), 0.4, ["claim half_as_good is tested in another way"]),
        (("claims", 0, "id"), "best", ["claim best is new", "claim better is gone"]),
        (("claims", 0, "statement"), "Other words.", []),
        (("claims", 0, "scale"), "paper", ["claim better is gone"]),
        (("seeds",), 4, [f"arm {arm} data={level}: its seeds changed" for arm in ("new", "old") for level in "xy"]),
    ],
)
def test_a_changed_study_makes_results_stale(
    results: dict[str, Any], path: tuple[Any, ...], value: Any, said: list[str]
) -> None:
    node = copy.deepcopy(NODE)
    inside: Any = node
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    assert verdicts.changes(results, parse(node), current(results)) == said


def test_a_changed_run_makes_results_stale(study: Study, results: dict[str, Any]) -> None:
    now = current(results)
    cell = (("data", "y"),)
    assert verdicts.changes(results, study, now | {("old", cell): ("other", "c0de")}) == [
        "arm old data=y: its config changed"
    ]
    assert verdicts.changes(results, study, now | {("old", cell): ("old-y", "new")}) == [
        "arm old data=y: its code changed"
    ]
    assert verdicts.changes(results, study, now | {("third", ()): ("h", "c")}) == ["arm third is new"]


def test_hardware_in_a_few_words() -> None:
    gpus = {"machine": "x86_64", "processor": "CPU", "cores": 16, "gpus": ["H100", "H100"]}
    assert verdicts.hardware_class(gpus) == "x86_64, CPU, 16 cores, H100 x 2"
    here = {"machine": "x86_64", "processor": "CPU", "instructions": "AVX2", "cores": 2, "gpus": []}
    assert verdicts.hardware_class(here) == "x86_64, CPU, AVX2, 2 cores, no GPU"
    assert verdicts.hardware_class({}) == "no GPU"

"""Claims over tables: every kind of test, what goes around them, and the whole engine in simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicata.errors import UserError
from replicata.study.claims import Verdict, evaluate
from replicata.study.parse import parse
from replicata.study.plan import expand
from replicata.study.table import Table, rows
from replicata.study.verdicts import build

Make = Callable[..., Any]
FAILED = {"status": "failed", "error": {"message": "killed by signal 9", "kind": "killed"}}
DIVERGED = {"status": "failed", "error": {"message": "loss is not finite", "kind": "diverged"}}
UP = [0.80, 0.82, 0.81, 0.83, 0.80]
DOWN = [0.70, 0.71, 0.72, 0.70, 0.73]


@pytest.fixture
def decide(study: Make, table: Make) -> Make:
    """The verdict on one claim: ``decide(tests, values, **study)``."""

    def run(tests: Any, values: Mapping[Any, Any], functions: Any = None, claim: Any = None, **node: Any) -> Verdict:
        content = {"id": "it", "statement": "s", **(claim or {})}
        content |= {"all": tests} if isinstance(tests, list) else {"test": tests}
        node.setdefault("arms", [name for name in values if isinstance(name, str)])
        made = study(claims=[content], **node)
        return evaluate(made, table(made, values, functions))[0]

    return run


def compare(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "metric": "m", "arm": "a", "than": "b", **more}


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        (compare("greater"), "holds"),
        (compare("less"), "fails"),
        (compare("greater", by=0.05), "holds"),
        (compare("greater", by=0.5), "fails"),
        (compare("greater", by=0.1), "inconclusive"),
        (compare("noninferior", margin=0.0), "holds"),
        (compare("noninferior", margin=0.01, better="lower"), "fails"),
        (compare("noninferior", margin=0.5, better="lower"), "holds"),
        (compare("ratio_at_least", ratio=1.05), "holds"),
        (compare("ratio_at_most", ratio=1.05), "fails"),
        (compare("ratio_at_most", ratio=1.14), "inconclusive"),
        ({"kind": "threshold", "metric": "m", "arm": "a", "at_least": 0.7}, "holds"),
        ({"kind": "threshold", "metric": "m", "arm": "a", "<=": 0.7}, "fails"),
        ({"kind": "threshold", "metric": "m", "arm": "a", "above": 0.812}, "inconclusive"),
    ],
)
def test_kinds_that_compare(decide: Make, test: dict[str, Any], verdict: str) -> None:
    assert decide(test, {"a": {"m": UP}, "b": {"m": DOWN}}).verdict == verdict


def test_the_verdict_carries_its_numbers(decide: Make) -> None:
    verdict = decide(compare("greater"), {"a": {"m": UP}, "b": {"m": DOWN}}, claim={"paper": {"a": 84.4}})
    assert verdict.effect == pytest.approx(0.1)
    assert verdict.interval[0] < 0.1 < verdict.interval[1]
    assert (verdict.n, verdict.region, verdict.method, verdict.paper) == (5, "> 0", "paired t", {"a": 84.4})
    assert (verdict.reason, verdict.parts) == ("", ())


def test_pairs_are_by_seed_not_by_place(study: Make, table: Make) -> None:
    claim = {"id": "it", "statement": "s", "test": compare("greater")}
    made = study(arms={"a": [], "b": {"seeds": [3, 1, 2]}}, claims=[claim])
    # b is 0.1 below a in every seed, though its values are in another order
    full = table(made, {"a": {"m": [0.5, 0.6, 0.9, 0.7, 0.2]}, "b": {"m": [0.6, 0.5, 0.8]}})
    (verdict,) = evaluate(made, full)
    assert (verdict.n, verdict.method) == (3, "all equal")
    assert verdict.effect == pytest.approx(0.1)


def test_the_bootstrap_takes_over_at_eight_seeds(decide: Make) -> None:
    values = {"a": {"m": [*UP, 0.8, 0.85, 0.82]}, "b": {"m": [*DOWN, 0.7, 0.71, 0.7]}}
    assert decide(compare("greater"), values, seeds=8).method == "paired BCa bootstrap"
    assert decide(compare("ratio_at_least", ratio=1), values, seeds=8).method == "paired BCa bootstrap on logs"


# Few seeds and exact quantities -------------------------------------------------------------


def test_one_lucky_seed_decides_nothing(decide: Make) -> None:
    verdict = decide(compare("greater"), {"a": {"m": [0.9]}, "b": {"m": [0.1]}}, seeds=1)
    assert (verdict.verdict, verdict.interval, verdict.effect) == ("inconclusive", None, pytest.approx(0.8))
    assert "one seed decides nothing" in verdict.reason


def test_a_deterministic_quantity_is_decided_with_one_seed_or_many(decide: Make) -> None:
    test = compare("ratio_at_most", ratio=0.5, exact=True)
    assert decide(test, {"a": {"m": [10]}, "b": {"m": [20]}}, seeds=1).verdict == "holds"
    assert decide(test, {"a": {"m": [11]}, "b": {"m": [20]}}, seeds=1).verdict == "fails"
    assert decide(test, {"a": {"m": [10, 10]}, "b": {"m": [20, 20]}}, seeds=2).verdict == "holds"
    varying = decide(test, {"a": {"m": [10, 5]}, "b": {"m": [20, 20]}}, seeds=2)
    assert varying.verdict == "inconclusive"
    assert "called exact" in varying.reason


def test_equal_accuracies_in_every_seed_are_not_inferior_and_not_greater(decide: Make) -> None:
    values = {"a": {"m": [1.0] * 3}, "b": {"m": [1.0] * 3}}
    assert decide(compare("noninferior", margin=0.02), values, seeds=3).verdict == "holds"
    assert decide(compare("greater"), values, seeds=3).verdict == "fails"


# Binary outcomes ----------------------------------------------------------------------------


def test_outcomes_are_compared_by_their_odds(decide: Make) -> None:
    verdict = decide(compare("greater"), {"a": {"m": [1.0] * 5}, "b": {"m": [0.0] * 5}})
    assert (verdict.verdict, verdict.method, verdict.region) == ("holds", "exact odds ratio", "> 1")
    assert decide(compare("greater"), {"a": {"m": [1.0] * 3}, "b": {"m": [0.0] * 3}}, seeds=3).verdict == "inconclusive"
    none = decide(compare("less", binary=True), {"a": {"m": [0.0] * 5}, "b": {"m": [0.0] * 5}})
    assert (none.verdict, none.reason) == ("inconclusive", "every outcome is 0: there is nothing to tell apart")


def test_pooled_outcomes_of_a_group_are_one_share(decide: Make) -> None:
    values = {name: {"m": [1.0] * 5} for name in ("a", "b")} | {"c": {"m": [1.0, 1.0, 0.0, 1.0, 1.0]}}
    test = {"kind": "threshold", "metric": "m", "arm": "all", "at_least": 0.65}
    verdict = decide(test, values, groups={"all": {"arms": ["a", "b", "c"], "reduce": "pool"}})
    assert (verdict.verdict, verdict.n, verdict.method) == ("holds", 15, "Clopper-Pearson")
    alone = {"kind": "threshold", "metric": "m", "arm": "a", "at_least": 0.9, "binary": True}
    assert decide(alone, values).verdict == "inconclusive"


# Failed, missing, diverged ------------------------------------------------------------------


def test_a_failed_run_is_named_and_never_dropped(decide: Make) -> None:
    verdict = decide(compare("greater"), {"a": {"m": UP}, "b": {"m": [*DOWN[:4], FAILED]}})
    assert verdict.verdict == "inconclusive"
    assert verdict.reason == "b seed 4 failed: killed by signal 9"
    assert (verdict.n, verdict.interval[0] > 0) == (4, True)  # of the seeds there are


def test_many_failures_are_counted(decide: Make) -> None:
    verdict = decide(compare("greater"), {"a": {"m": UP}, "b": {"m": [FAILED] * 5}})
    assert verdict.reason.endswith("b seed 2 failed: killed by signal 9; and 2 more like these")
    assert (verdict.effect, verdict.n) == (None, 0)


def test_a_diverged_run_counts_as_declared_and_is_named(decide: Make) -> None:
    values = {"a": {"m": UP}, "b": {"m": [*DOWN[:4], DIVERGED]}}
    verdict = decide(compare("greater"), values, missing={"m": 0.1})
    assert (verdict.verdict, verdict.n) == ("inconclusive", 5)  # the collapse widens the interval
    assert verdict.effect == pytest.approx(np.mean(UP) - np.mean([*DOWN[:4], 0.1]))
    assert verdict.reason == "b seed 4 diverged: counted as m = 0.1"
    assert decide(compare("greater"), values).reason.endswith("study.missing declares no value for m")


def test_declared_values_alone_decide_nothing(decide: Make) -> None:
    values = {"a": {"m": [DIVERGED] * 5}, "b": {"m": [DIVERGED] * 5}}
    verdict = decide(compare("noninferior", margin=0.1), values, missing={"m": 0.1})
    assert verdict.verdict == "inconclusive"
    assert "every m is a declared value, none was measured" in verdict.reason
    assert decide(compare("greater"), values | {"a": {"m": UP}}, missing={"m": 0.1}).verdict == "holds"


def test_an_arm_left_out_of_the_runs_is_named(decide: Make) -> None:
    verdict = decide(compare("greater"), {"a": {"m": UP}}, arms=["a", "b"])
    assert (verdict.verdict, verdict.reason) == ("inconclusive", "b is not among the runs")


# Factors ------------------------------------------------------------------------------------

FACTORS = {"data": {"x": ["data=x"], "y": ["data=y"]}}


def crossed(**by_level: tuple[Sequence[float], Sequence[float]]) -> dict[Any, Any]:
    return {(arm, level): {"m": values[at]} for level, values in by_level.items() for at, arm in enumerate("ab")}


def test_each_level_must_hold(decide: Make) -> None:
    test = compare("greater", over={"data": "each"})
    both = decide(test, crossed(x=(UP, DOWN), y=(UP, [u - 0.05 for u in UP])), arms=["a", "b"], factors=FACTORS)
    assert (both.verdict, len(both.parts)) == ("holds", 2)
    assert both.effect == pytest.approx(0.05)  # that of the level with the least margin
    assert [part.test for part in both.parts] == ["m: a - b > 0, data=x", "m: a - b > 0, data=y"]
    one = decide(test, crossed(x=(UP, DOWN), y=(DOWN, UP)), arms=["a", "b"], factors=FACTORS)
    assert one.verdict == "fails"
    assert [part.verdict for part in one.parts] == ["holds", "fails"]


def test_levels_are_averaged_within_a_seed_or_pooled(decide: Make) -> None:
    values = crossed(x=(UP, DOWN), y=(DOWN, UP))
    mean = decide(compare("greater", over={"data": "mean"}), values, arms=["a", "b"], factors=FACTORS)
    assert (mean.n, mean.effect) == (5, pytest.approx(0))
    pool = decide(compare("greater", over={"data": "pool"}), values, arms=["a", "b"], factors=FACTORS)
    assert (pool.n, pool.effect, pool.method) == (10, pytest.approx(0), "paired BCa bootstrap")


def test_one_level_can_be_asked_for(decide: Make) -> None:
    values = crossed(x=(UP, DOWN), y=(DOWN, UP))
    for level, verdict in (("x", "holds"), ("y", "fails")):
        test = compare("greater", where={"data": level})
        assert decide(test, values, arms=["a", "b"], factors=FACTORS).verdict == verdict


def test_an_arm_of_a_track_is_compared_with_a_crossed_one(study: Make, table: Make) -> None:
    claim = {"id": "it", "statement": "s", "test": {**compare("greater"), "over": {"data": "each"}}}
    made = study(arms=["b"], tracks={"t": {"factors": FACTORS, "arms": {"a": []}}}, claims=[claim])
    full = table(made, {("a", "x"): {"m": UP}, ("a", "y"): {"m": UP}, "b": {"m": DOWN}})
    assert [part.verdict for part in evaluate(made, full)[0].parts] == ["holds", "holds"]


# Groups -------------------------------------------------------------------------------------


def test_the_best_of_a_group_is_chosen_by_its_metric_in_each_seed(decide: Make) -> None:
    values = {
        "a": {"m": [0.5, 0.5, 0.5], "val": [0, 0, 0]},
        "x": {"m": [0.4, 0.9, 0.4], "val": [1.0, 0.0, 1.0]},
        "y": {"m": [0.9, 0.4, 0.9], "val": [0.0, 1.0, 0.0]},
    }
    test = compare("greater", than="rest")
    best = {"rest": {"arms": ["x", "y"], "reduce": "best", "by": "val"}}
    assert decide(test, values, groups=best, seeds=3).effect == pytest.approx(0.1)
    worst = {"rest": {**best["rest"], "better": "lower"}}
    assert decide(test, values, groups=worst, seeds=3).effect == pytest.approx(-0.4)
    mean = {"rest": {"arms": ["x", "y"], "reduce": "mean"}}
    assert decide(test, values, groups=mean, seeds=3).effect == pytest.approx(-0.15)


# Trends, correlations, statistics -----------------------------------------------------------


def test_a_trend_over_arms(decide: Make) -> None:
    values = {f"n{n}": {"m": [1 / n + seed / 1000 for seed in range(5)]} for n in (1, 2, 4, 8)}
    test = {"kind": "trend", "metric": "m", "arms": list(values), "direction": "falling"}
    assert decide(test, values).verdict == "holds"
    assert decide(test | {"direction": "rising"}, values).verdict == "fails"


def test_a_trend_along_a_factor_must_be_monotone(decide: Make) -> None:
    factors: dict[str, Any] = {"n": {"100": [], "400": [], "1600": []}}
    noise = [0.0, 0.01, -0.01, 0.02, 0.0]
    test = {"kind": "trend", "metric": "m", "arm": "a", "along": "n", "direction": "falling"}

    def sweep(*means: float) -> Verdict:
        levels = zip(factors["n"], means, strict=True)
        values = {
            ("a", n): {"m": [mean + noise[(seed + at) % 5] for seed in range(5)]} for at, (n, mean) in enumerate(levels)
        }
        return decide(test, values, arms=["a"], factors=factors)

    assert sweep(0.9, 0.5, 0.1).verdict == "holds"
    assert sweep(0.5, 0.5, 0.5).verdict == "inconclusive"
    back = sweep(0.9, 0.1, 0.3)
    assert back.verdict == "fails"
    assert back.reason.startswith("not monotone: m rises from 400 to 1600 (+0.2")


def test_a_correlation_within_seeds_and_over_runs(decide: Make) -> None:
    names = [f"cell{number}" for number in range(6)]
    values = {
        name: {"x": [at + seed for seed in range(5)], "y": [at - 2 * seed + (at * seed) % 2 for seed in range(5)]}
        for at, name in enumerate(names)
    }
    test = {"kind": "correlation", "x": "x", "y": "y", "arms": names}
    within = decide(test, values)
    assert (within.verdict, within.n) == ("holds", 5)
    over = decide(test | {"per": "run"}, values)
    assert over.n == 30
    assert over.effect < within.effect  # seeds move x and y apart
    assert decide(test | {"per": "run", "below": 0}, values).verdict != "holds"


def test_a_group_stands_for_its_arms_in_a_correlation(decide: Make) -> None:
    values = {f"g{number}": {"x": [float(number)], "y": [number * 2.0]} for number in range(6)}
    test = {"kind": "correlation", "x": "x", "y": "y", "arm": "all", "per": "run", "method": "pearson"}
    verdict = decide(test, values, seeds=1, groups={"all": {"arms": list(values), "reduce": "mean"}})
    assert (verdict.verdict, verdict.n, verdict.effect) == ("holds", 6, pytest.approx(1))


STATISTICS: dict[str, Callable[[Any], Any]] = {
    "per_seed": lambda runs: [run["metrics"]["m"] for run in runs if run["arm"] == "a"],
    "single": lambda runs: 0.9,
    "own": lambda runs: {"effect": 0.5, "interval": (0.4, 0.6), "n": 40},
    "broken": lambda runs: runs[0]["metrics"]["nothing"],
    "infinite": lambda runs: [math.inf],
}


@pytest.mark.parametrize(
    ("name", "exact", "verdict", "method"),
    [
        ("per_seed", False, "holds", "per_seed(), t"),
        ("single", False, "inconclusive", "single(), none"),
        ("single", True, "holds", "single(), exact"),
        ("own", False, "fails", "own()"),
        ("broken", False, "inconclusive", "none"),
        ("infinite", False, "inconclusive", "none"),
    ],
)
def test_a_statistic_of_the_papers_file(decide: Make, name: str, exact: bool, verdict: str, method: str) -> None:
    test = {"kind": "statistic", "function": name, "at_least": 0.7, "exact": exact}
    found = decide(test, {"a": {"m": UP}, "b": {"m": DOWN}}, functions=STATISTICS.__getitem__)
    assert (found.verdict, found.method) == (verdict, method)
    if name == "broken":
        assert found.reason == "broken() raised KeyError: 'nothing'"


def test_a_statistic_is_not_asked_about_runs_that_are_not_there(decide: Make) -> None:
    test = {"kind": "statistic", "function": "per_seed", "above": 0, "arms": ["a"]}
    values = {"a": {"m": [*UP[:4], FAILED]}, "b": {"m": [FAILED] * 5}}
    assert decide(test, values, functions=STATISTICS.__getitem__).reason == "a seed 4 failed: killed by signal 9"


# Around the tests ---------------------------------------------------------------------------


def test_all_tests_must_hold_and_one_that_fails_is_enough(decide: Make) -> None:
    values = {"a": {"m": UP, "cost": [5] * 5}, "b": {"m": DOWN, "cost": [10] * 5}}
    half = compare("ratio_at_most", metric="cost", ratio=0.5, exact=True)
    both = decide([compare("greater"), half], values)
    assert (both.verdict, len(both.parts)) == ("holds", 2)
    assert decide([compare("greater"), half | {"ratio": 0.4}], values).verdict == "fails"
    open_end = decide([compare("greater", by=0.1), half], values)
    assert (open_end.verdict, open_end.region) == ("inconclusive", "> 0.1")


def test_a_precondition_that_is_not_met_makes_the_claim_inconclusive(decide: Make) -> None:
    values = {"a": {"m": UP}, "b": {"m": DOWN}}
    given_ = [{"kind": "threshold", "metric": "m", "arm": "b", "at_least": 0.9}]
    verdict = decide(compare("greater"), values, claim={"given": given_})
    assert (verdict.verdict, verdict.effect) == ("inconclusive", pytest.approx(0.1))
    assert verdict.reason == "its precondition is not met: m: b >= 0.9 fails"
    met = [{"kind": "threshold", "metric": "m", "arm": "b", "at_least": 0.6}]
    assert decide(compare("greater"), values, claim={"given": met}).verdict == "holds"


@pytest.mark.parametrize(
    ("bound", "verdict", "reason"),
    [
        ({"at_most": 0.9}, "holds", ""),
        ({"at_most": 0.5}, "inconclusive", "control sane fails"),
        ({"at_most": 0.712}, "holds", "control sane is inconclusive"),
    ],
)
def test_a_control_that_fails_makes_its_claims_inconclusive(
    study: Make, table: Make, bound: dict[str, float], verdict: str, reason: str
) -> None:
    claims = [
        {"id": "it", "statement": "s", "test": compare("greater")},
        {"id": "free", "statement": "s", "test": compare("greater")},
        {
            "id": "sane",
            "statement": "s",
            "role": "control",
            "controls": ["it"],
            "test": {"kind": "threshold", "metric": "m", "arm": "b", **bound},
        },
    ]
    made = study(arms=["a", "b"], claims=claims)
    verdicts = {found.id: found for found in evaluate(made, table(made, {"a": {"m": UP}, "b": {"m": DOWN}}))}
    assert (verdicts["it"].verdict, verdicts["it"].reason) == (verdict, reason)
    assert verdicts["free"].verdict == "holds"


def test_the_best_of_a_group_is_decided_on_the_weights_that_are_tested(study: Make, table: Make) -> None:
    """Both arms overfit; x was best at its best epoch, y is better at the last."""

    def record(best: float, last: float, test: float, kept: str) -> dict[str, Any]:
        selected = {"epoch": 1, "score": -best, "metrics": {"val/acc": best}}
        metrics = {"val/acc": last, "test/acc": test}
        return {"status": "finished", "test": kept, "metrics": metrics, "arms": {}, "selected": selected}

    made = study(
        arms=["a", "x", "y"],
        groups={"rest": {"arms": ["x", "y"], "reduce": "best", "by": "val/acc"}},
        claims=[
            {
                "id": "it",
                "statement": "s",
                "test": {"kind": "greater", "metric": "test/acc", "arm": "a", "than": "rest"},
            }
        ],
    )

    def effect(kept: str) -> float | None:
        spread = [0.0, 0.01, 0.02, 0.03, 0.04]
        values = {
            "a": {"test/acc": [0.9] * 5, "val/acc": [0.9] * 5},
            "x": {"record": [record(0.8 + d, 0.5, 0.7, kept) for d in spread]},
            "y": {"record": [record(0.7 + d, 0.6, 0.4, kept) for d in spread]},
        }
        full = table(made, values)
        (verdict,) = evaluate(made, full)
        known = build(made, full, [verdict], reconstructed=False)["arms"]["x"]["runs"][0]["metrics"]
        assert known["val/acc"] == ([0.8, 0.81, 0.82, 0.83, 0.84] if kept == "best" else [0.5] * 5)
        return verdict.effect

    assert effect("best") == pytest.approx(0.9 - 0.7), "x goes to the test"
    assert effect("last") == pytest.approx(0.9 - 0.4), "y does"


def test_claims_are_chosen_with_their_controls_and_by_scale(study: Make, table: Make) -> None:
    claims = [
        {"id": "one", "statement": "s", "test": compare("greater")},
        {"id": "two", "statement": "s", "scale": "paper", "test": compare("greater")},
        {"id": "small", "statement": "s", "scale": "laptop", "test": compare("greater")},
        {"id": "sane", "statement": "s", "role": "control", "controls": ["one"], "test": compare("greater")},
        {"id": "told", "statement": "s", "role": "report", "test": compare("greater")},
    ]
    made = study(arms=["a", "b"], claims=claims)
    full = table(made, {"a": {"m": UP}, "b": {"m": DOWN}})
    assert [verdict.id for verdict in evaluate(made, full)] == ["one", "small", "sane", "told"]
    paper = replace(made, name=f"{made.name}_paper")
    assert [verdict.id for verdict in evaluate(paper, full)] == ["one", "two", "sane", "told"]
    assert [verdict.id for verdict in evaluate(made, full, claims=["one"])] == ["one", "sane"]
    with pytest.raises(UserError, match="no claim 'tree'"):
        evaluate(made, full, claims=["tree"])


# Properties ---------------------------------------------------------------------------------

columns = st.lists(st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)), min_size=3, max_size=7)


def verdicts_of(pairs: Sequence[tuple[float, float]], **tests: dict[str, Any]) -> dict[str, Verdict]:
    claims = [{"id": name, "statement": "s", "test": test} for name, test in tests.items()]
    study = parse({"seeds": len(pairs), "arms": {"a": [], "b": []}, "claims": claims})
    found = [
        row
        for spec in expand(study)
        for row in rows(study, spec, {"status": "finished", "metrics": {"m": pairs[spec.seed]["ab".index(spec.arm)]}})
    ]
    return {verdict.id: verdict for verdict in evaluate(study, Table(study, found))}


@given(columns)
def test_kinds_agree_with_each_other(pairs: list[tuple[float, float]]) -> None:
    found = verdicts_of(
        pairs,
        greater=compare("greater"),
        less=compare("less"),
        swapped=compare("less", arm="b", than="a"),
        lenient=compare("noninferior", margin=0.1),
        strict=compare("noninferior", margin=0.0),
        demanding=compare("greater", by=0.1),
    )
    said = {name: verdict.verdict for name, verdict in found.items()}
    assert said["greater"] == said["swapped"]
    assert not {"greater", "less"} <= {name for name, verdict in said.items() if verdict == "holds"}
    for stronger, weaker in (("demanding", "greater"), ("greater", "strict"), ("strict", "lenient")):
        assert said[stronger] != "holds" or said[weaker] == "holds"
        assert said[weaker] != "fails" or said[stronger] == "fails"


# Simulation: 2,000 studies through the whole engine -----------------------------------------

STUDIES = 2000


def simulated(
    draw: Callable[[np.random.Generator], np.ndarray], n: int, studies: int = STUDIES, **tests: dict[str, Any]
) -> dict[str, float]:
    """How often each test holds in studies whose metrics (arms x seeds) are drawn."""
    claims = [{"id": name, "statement": "s", "test": test} for name, test in tests.items()]
    names = ["a", "b", "c", "d"]
    study = parse({"seeds": n, "arms": {name: [] for name in names}, "claims": claims})
    specs = expand(study)
    rng = np.random.default_rng(0)
    held = dict.fromkeys(tests, 0)
    for _ in range(studies):
        values = draw(rng)
        records = [{"status": "finished", "metrics": {"m": float(values[names.index(s.arm), s.seed])}} for s in specs]
        found = [row for spec, record in zip(specs, records, strict=True) for row in rows(study, spec, record)]
        for verdict in evaluate(study, Table(study, found)):
            held[verdict.id] += verdict.verdict == "holds"
    return {name: count / studies for name, count in held.items()}


def test_with_no_true_effect_claims_hold_in_at_most_five_percent_of_studies() -> None:
    def draw(rng: np.random.Generator) -> np.ndarray:
        # four arms of the same accuracy, on 500 test examples, in seeds of different difficulty; b is at the margins
        share = np.clip(rng.normal(0.8, 0.02, 5), 0, 1) * np.ones((4, 1)) + np.array([[0], [0.02], [0], [0]])
        return rng.binomial(500, share) / 500

    rates = simulated(
        draw,
        5,
        greater=compare("greater", than="c"),
        less=compare("less", than="c"),
        by=compare("greater", arm="b", than="a", by=0.02),
        noninferior=compare("noninferior", than="b", margin=0.02),
        ratio=compare("ratio_at_least", arm="b", than="a", ratio=0.82 / 0.8),
        threshold={"kind": "threshold", "metric": "m", "arm": "a", "at_least": 0.8},
        trend={"kind": "trend", "metric": "m", "arms": ["a", "c", "d"], "direction": "rising"},
    )
    assert all(rate <= 0.05 for rate in rates.values()), rates
    assert all(rate >= 0.005 for rate in rates.values()), rates  # not for want of ever holding


def test_with_a_true_effect_power_grows_with_seeds() -> None:
    def power(n: int) -> float:
        def draw(rng: np.random.Generator) -> np.ndarray:
            return rng.normal([[0.82], [0.80], [0], [0]], 0.01, (4, n))

        return simulated(draw, n, 400, greater=compare("greater"))["greater"]

    powers = [power(n) for n in (2, 3, 5, 7)]
    assert powers == sorted(powers)
    assert powers[0] == 0
    assert powers[-1] > 0.85

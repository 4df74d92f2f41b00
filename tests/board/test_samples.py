"""The numbers behind declared figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from replicata.board.samples import Curve, cells, collect, front, lines, summarise
from replicata.study.schema import Figure, Study
from replicata.study.table import Table

Make = Callable[..., Study]
Recorded = Callable[..., Table]


def curves_of(study: Study, table: Table) -> tuple[dict[str, Curve], list[str], list[str]]:
    samples = collect(study.figures[0], table)
    return {curve.name: curve for curve in lines(samples)}, samples.notes, samples.problems


def curve(**options: Any) -> dict[str, Any]:
    return {"id": "it", "title": "It", "kind": "curve", **options}


def test_the_interval_is_students() -> None:
    values = [0.8, 0.83, 0.79, 0.85]
    summary = summarise(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert (summary.mean, summary.low, summary.high, summary.n) == pytest.approx((sum(values) / 4, low, high, 4))


def test_two_values_and_a_wanted_range_give_the_range() -> None:
    assert (summarise([1.0, 2.0]).low, summarise([1.0, 2.0]).high) == (1.0, 2.0)
    assert (summarise([1.0, 2.0, 6.0], "range").low, summarise([1.0, 2.0, 6.0], "range").high) == (1.0, 6.0)
    assert (summarise([3.0]).low, summarise([3.0]).high) == (3.0, 3.0)


def test_a_curve_is_the_mean_over_seeds_by_arm(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a", "b"], figures=[curve(metric="val/acc", x="step")])
    shift = {"a": 0.0, "b": 1.0}
    table = recorded(made, lambda spec: {"curves": {"val/acc": [shift[spec.arm] + spec.seed + e for e in range(3)]}})
    curves, notes, problems = curves_of(made, table)
    assert curves["a"].x == [10, 20, 30]  # steps done, from the csv's 9, 19, 29
    assert curves["a"].mean == [1.0, 2.0, 3.0]
    assert curves["b"].mean == [2.0, 3.0, 4.0]
    expected = summarise([0.0, 1.0, 2.0])
    assert (curves["a"].low[0], curves["a"].high[0]) == (expected.low, expected.high)
    assert curves["a"].n == [3, 3, 3]
    assert (notes, problems) == ([], [])


def test_the_mean_ends_where_the_first_seed_ends(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a"], figures=[curve(metric="loss")])
    table = recorded(made, lambda spec: {"curves": {"loss": [1.0] * (2 + spec.seed)}})
    curves, notes, _ = curves_of(made, table)
    assert curves["a"].x == [1, 2]
    assert notes == ["curves end where the first seed ends"]


def test_runs_without_a_result_are_named_and_left_out(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a", "b"], figures=[curve(metric="loss")])

    def content(spec: Any) -> Any:
        if spec.arm == "b":
            return {"curves": {"other": [1.0]}}
        gone = {"status": "failed", "error": {"message": "out of memory", "kind": "memory"}}
        diverged = {
            "status": "failed",
            "error": {"message": "loss is nan", "kind": "diverged"},
            "curves": {"loss": [9]},
        }
        return {0: {"curves": {"loss": [1.0, 2.0]}}, 1: gone, 2: diverged}[spec.seed]

    curves, _, problems = curves_of(made, recorded(made, content))
    assert list(curves) == ["a"]
    assert curves["a"].mean == [1.0, 2.0]
    assert problems == [
        "figure it: a seed 1: failed: out of memory",
        "figure it: a seed 2: diverged",
        "figure it: b seed 0, and 2 more runs: no curve 'loss' in metrics.csv; choose one of: other",
    ]


def test_a_table_by_one_of_its_columns_pools_arms(study: Make, recorded: Recorded) -> None:
    figure = curve(table="depth", x="depth", y="acc", by="network", arms=["shallow", "deep", "other"])
    made = study(arms=["shallow", "deep", "other"], figures=[figure])
    rows = {"shallow": ("gcn", 2, 0.8), "deep": ("gcn", 16, 0.4), "other": ("dagnn", 2, 0.9)}

    def content(spec: Any) -> Any:
        network, depth, acc = rows[spec.arm]
        return {"tables": {"depth": [{"network": network, "depth": depth, "acc": acc + spec.seed / 100}]}}

    curves, notes, _ = curves_of(made, recorded(made, content))
    assert curves["gcn"].x == [2, 16]
    assert curves["gcn"].mean == pytest.approx([0.81, 0.41])
    assert curves["dagnn"].mean == pytest.approx([0.91])
    assert notes == []


def test_a_missing_table_or_column_names_arm_and_table(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a", "b"], seeds=1, figures=[curve(table="depths", x="depth", y="acc")])
    tables = {"a": {"depth": [{"depth": 1, "acc": 1}]}, "b": {"depths": [{"deep": 1, "acc": 1}]}}
    samples = collect(made.figures[0], recorded(made, lambda spec: {"tables": tables[spec.arm]}))
    assert samples.found == []
    assert samples.problems == [
        "figure it: a seed 0: no table 'depths'; did you mean 'depth'?",
        "figure it: b seed 0: no column 'depth' in table 'depths'; did you mean 'deep'?",
    ]


def test_a_damaged_table_is_a_problem_like_another(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a"], seeds=1, figures=[curve(table="t", x="x", y="y")])
    table = recorded(made, lambda spec: {"tables": {"t": [{"x": 1, "y": 1}]}})
    run = next(iter(table))
    assert run.directory is not None
    (run.directory / "tables" / "t.parquet").write_bytes(b"no parquet")
    assert collect(made.figures[0], table).problems == ["figure it: a seed 0: table 't' cannot be read (ArrowInvalid)"]


def test_a_logarithmic_axis_has_geometric_means(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a"], figures=[curve(table="t", x="x", y="y", log_y=True)])
    table = recorded(made, lambda spec: {"tables": {"t": [{"x": 1, "y": 10.0 ** (spec.seed + 1)}]}})
    curves, notes, _ = curves_of(made, table)
    assert curves["a"].mean == pytest.approx([100.0])
    expected = summarise([math.log(10), math.log(100), math.log(1000)])
    assert curves["a"].low == pytest.approx([math.exp(expected.low)])
    assert notes == ["means are geometric"]


def test_a_band_of_two_columns_is_their_mean(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a"], figures=[curve(table="t", x="x", y="mid", band=["q25", "q75"])])
    table = recorded(made, lambda spec: {"tables": {"t": [{"x": 1, "mid": spec.seed, "q25": -1.0, "q75": 4.0}]}})
    (drawn,) = curves_of(made, table)[0].values()
    assert (drawn.low, drawn.mean, drawn.high, drawn.n) == ([-1.0], [1.0], [4.0], [3])


def test_many_points_are_averaged_over_windows(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a"], figures=[curve(table="t", x="step", y="norm")])
    table = recorded(made, lambda spec: {"tables": {"t": [{"step": s, "norm": s % 2} for s in range(800)]}})
    curves, notes, _ = curves_of(made, table)
    assert len(curves["a"].x) == 100
    assert set(curves["a"].mean) == {0.5}
    assert curves["a"].x[0] == 3.5
    assert notes == ["averaged over windows of 8 points"]


def test_values_that_cannot_be_drawn_are_counted(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a"], seeds=1, figures=[curve(table="t", x="x", y="y", log_x=True)])
    rows = [{"x": 0, "y": 1.0}, {"x": 1, "y": math.nan}, {"x": 2, "y": None}, {"x": 3, "y": 4.0}]
    curves, notes, _ = curves_of(made, recorded(made, lambda spec: {"tables": {"t": rows}}))
    assert (curves["a"].x, curves["a"].mean) == ([3], [4.0])
    assert notes == ["2 points without a finite value or off the logarithmic axis left out"]


def test_a_factor_can_be_the_axis(study: Make, recorded: Recorded) -> None:
    factors = {"n": {"100": ["n=100"], "25": ["n=25"]}}
    made = study(arms=["a"], factors=factors, figures=[curve(metric="test/error", x="n")])
    table = recorded(made, lambda spec: {"metrics": {"test/error": 1 / int(spec.levels[0][1])}})
    (drawn,) = curves_of(made, table)[0].values()
    assert drawn.x == [25.0, 100.0]
    assert drawn.mean == pytest.approx([0.04, 0.01])


def test_final_metrics_are_those_of_claims(study: Make, recorded: Recorded) -> None:
    bars = {"id": "it", "title": "It", "kind": "bars", "metric": "test/acc"}
    made = study(arms=["a", "b"], missing={"test/acc": 0.1}, figures=[bars])

    def content(spec: Any) -> Any:
        diverged = {"status": "failed", "error": {"message": "loss is nan", "kind": "diverged"}}
        return diverged if (spec.arm, spec.seed) == ("a", 0) else {"metrics": {"test/acc": 0.7}}

    samples = collect(made.figures[0], recorded(made, content))
    found = cells(samples, ["arm"], "test/acc")
    assert found[("a",)].mean == pytest.approx((0.1 + 0.7 + 0.7) / 3)
    assert found[("b",)].n == 3
    assert samples.notes == ["a seed 0 diverged: counted as test/acc = 0.1"]


def test_panels_are_shown_by_their_metrics(study: Make, recorded: Recorded) -> None:
    bars = {"id": "it", "title": "It", "kind": "bars", "metric": "acc"}
    made = study(arms={"dense": {"panel": ["half"]}}, figures=[bars])
    table = recorded(made, lambda spec: {"metrics": {"acc": 1.0}, "arms": {"half": {"acc": 0.5}}})
    found = cells(collect(made.figures[0], table), ["arm"], "acc")
    assert {name: summary.mean for (name,), summary in found.items()} == {"dense": 1.0, "half": 0.5}


def test_series_follow_the_config(study: Make, recorded: Recorded) -> None:
    factors = {"data": {"cora": ["d=1"], "citeseer": ["d=2"]}}
    figure = {"id": "it", "title": "It", "kind": "bars", "metric": "m", "by": "data", "arms": ["b", "a"]}
    made = study(arms=["a", "b"], factors=factors, figures=[figure])
    samples = collect(made.figures[0], recorded(made, lambda spec: {"metrics": {"m": 1.0}}))
    assert list(samples.series()) == ["cora", "citeseer"]
    assert samples.ordered("arm", ["a", "b"]) == ["b", "a"]
    assert samples.ordered("size", [10, 9, 100]) == [9, 10, 100]
    assert samples.ordered("name", ["z", "a", "z"]) == ["z", "a"]


values = st.floats(-100, 100, allow_nan=False)


@given(
    points=st.lists(st.tuples(values, values), min_size=1, max_size=30),
    x=st.sampled_from(["lower", "higher"]),
    y=st.sampled_from(["lower", "higher"]),
)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]], x: str, y: str) -> None:
    sign = {"lower": 1, "higher": -1}
    found = front(points, {"x": x, "y": y})

    def as_good(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return sign[x] * one[0] <= sign[x] * other[0] and sign[y] * one[1] <= sign[y] * other[1]

    assert found == sorted(found)
    for point in points:
        assert any(as_good(best, point) for best in found)
    for point in found:
        assert not any(as_good(other, point) and other != point for other in points)


def test_a_figure_of_the_schema_is_plain() -> None:
    assert Figure("id", "bars", "Title", ("a",)).by == "arm"

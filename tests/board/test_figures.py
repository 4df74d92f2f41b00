"""Drawing declared figures: the artists hold the right numbers, and the files are the same every time."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.image import imsave

from replicata.board.axes import spread
from replicata.board.figures import draw, draw_all, save
from replicata.board.samples import summarise
from replicata.board.style import PALETTE, label, looks
from replicata.errors import UserError
from replicata.study.schema import Study
from replicata.study.table import Table

Make = Callable[..., Study]
Recorded = Callable[..., Table]
LOSS = {"id": "loss", "kind": "curve", "title": "Loss", "metric": "train/loss"}


def axes_of(table: Table, at: int = 0) -> Axes:
    return draw(table.study.figures[at], table).axes[0]


def named(axes: Axes, name: str) -> Any:
    return next(line for line in axes.lines if line.get_label() == name)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def caption(table: Table, at: int = 0) -> str:
    return draw(table.study.figures[at], table).get_supxlabel()


@pytest.fixture
def losses(study: Make, recorded: Recorded) -> Table:
    """Two arms, three seeds, two epochs."""
    made = study(arms=["a", "b"], figures=[{**LOSS, "reference": {"floor": 0.5}}])
    start = {"a": 1.0, "b": 3.0}
    return recorded(made, lambda spec: {"curves": {"train/loss": [start[spec.arm] + spec.seed, start[spec.arm]]}})


def test_a_curve_has_the_means_the_band_and_the_names(losses: Table) -> None:
    axes = axes_of(losses)
    assert named(axes, "a").get_xydata().tolist() == [[1.0, 2.0], [2.0, 1.0]]
    assert named(axes, "b").get_xydata().tolist() == [[1.0, 4.0], [2.0, 3.0]]
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    expected = summarise([1.0, 2.0, 3.0])
    assert (min(edges), max(edges)) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert texts(axes) == ["a", "b", "floor"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "training loss")
    assert caption(losses) == "Mean of 3 seeds; band: 95 % interval of the mean."
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in axes.lines]


def test_names_stand_at_the_ends_of_their_lines_without_touching(losses: Table) -> None:
    axes = axes_of(losses)
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert heights["b"] > heights["a"] > heights["floor"]
    at_end = axes.transAxes.inverted().transform(axes.transData.transform((2, 3.0)))[1]
    assert heights["b"] == pytest.approx(at_end, abs=0.02)


def test_the_same_data_give_the_same_bytes(losses: Table, tmp_path: Path) -> None:
    first = draw_all(losses, tmp_path / "one")[0]
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        second = draw_all(losses, tmp_path / "two")[0]
    assert [path.name for path in first.files] == ["loss.png", "loss.svg"]
    for one, two in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert "date" not in first.files[1].read_text().lower()
    assert first.files[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [".drawn.json", "loss.png", "loss.svg"]


def test_drawing_leaves_the_users_settings_alone(losses: Table) -> None:
    before = dict(mpl.rcParams)
    draw(losses.study.figures[0], losses)
    assert dict(mpl.rcParams) == before


def test_one_figure_that_cannot_be_drawn_leaves_the_others(study: Make, recorded: Recorded, tmp_path: Path) -> None:
    broken = {"id": "broken", "kind": "curve", "title": "Cost in $\\nonsense{$", "metric": "train/loss"}
    depth = {"id": "depth", "kind": "curve", "title": "Depth", "table": "depth", "x": "depth", "y": "acc"}
    made = study(arms=["a", "b"], figures=[depth, broken, LOSS])
    table = recorded(made, lambda spec: {"curves": {"train/loss": [1.0]}} if spec.arm == "a" else None)
    first, second, third = draw_all(table, tmp_path)
    assert first.files == ()
    assert first.problems == (
        "figure depth: a seed 0, and 2 more runs: no table 'depth'; there are no choices here; "
        "figure depth: b seed 0, and 2 more runs: not run",
    )
    assert second.files == ()
    assert second.problems[0].startswith("figure broken: ValueError: ")
    assert "\n" not in second.problems[0]
    assert len(third.files) == 2
    assert third.problems == ("figure loss: b seed 0, and 2 more runs: not run",)


def test_nothing_to_show_is_said(study: Make, recorded: Recorded) -> None:
    kinds = [
        LOSS,
        {"id": "bars", "kind": "bars", "title": "B", "table": "t", "y": "v"},
        {"id": "points", "kind": "scatter", "title": "S", "table": "t", "x": "v", "y": "v"},
        {"id": "heat", "kind": "heatmap", "title": "H", "table": "t", "x": "v", "y": "v", "value": "v"},
    ]
    made = study(arms=["a"], seeds=1, figures=kinds)
    nothing = {"curves": {"train/loss": [math.nan]}, "tables": {"t": [{"v": math.nan}]}}
    table = recorded(made, lambda spec: nothing)
    for figure in made.figures:
        with pytest.raises(UserError, match=f"figure {figure.id}: no finite value to show"):
            draw(figure, table)


def test_a_missing_seed_is_in_the_name_of_the_series(study: Make, recorded: Recorded) -> None:
    made = study(arms=["a"], figures=[LOSS])
    table = recorded(made, lambda spec: {"curves": {"train/loss": [1.0]}} if spec.seed else None)
    assert texts(axes_of(table)) == ["a (2 of 3 seeds)"]
    assert caption(table) == "Mean of 2 seeds; band: lowest to highest."


def test_logarithmic_ticks_are_the_points_where_these_are_few(study: Make, recorded: Recorded) -> None:
    figure = {"id": "d", "kind": "curve", "title": "D", "table": "t", "x": "depth", "y": "acc", "log_x": True}
    made = study(arms=["a"], figures=[figure])
    table = recorded(made, lambda spec: {"tables": {"t": [{"depth": d, "acc": 1 / d} for d in (2, 10, 16, 1600)]}})
    canvas = draw(made.figures[0], table)
    canvas.draw_without_rendering()
    axes = canvas.axes[0]
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "10", "16", "1,600"]


def test_names_of_levels_are_an_axis_too(study: Make, recorded: Recorded) -> None:
    factors = {"size": {"small": ["s=1"], "large": ["s=2"]}}
    made = study(arms=["a"], factors=factors, figures=[{**LOSS, "metric": "acc", "x": "size"}])
    table = recorded(made, lambda spec: {"metrics": {"acc": {"small": 0.5, "large": 0.7}[spec.levels[0][1]]}})
    axes = axes_of(table)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["small", "large"]
    assert named(axes, "a").get_xydata() == pytest.approx(np.array([[0.0, 0.5], [1.0, 0.7]]))


@pytest.fixture
def crossed(study: Make, recorded: Recorded) -> Table:
    """Accuracies of two arms on two sets."""
    factors = {"data": {"cora": ["d=1"], "citeseer": ["d=2"]}}
    figures = [
        {"id": "sets", "kind": "bars", "title": "T", "metric": "test/acc", "x": "data", "reference": {"chance": 0.1}},
        {"id": "cora", "kind": "bars", "title": "T", "metric": "test/acc", "where": {"data": "cora"}},
        {"id": "heat", "kind": "heatmap", "title": "T", "metric": "test/acc", "x": "data", "y": "arm"},
    ]
    made = study(arms=["a", "b"], factors=factors, figures=figures)
    base = {("a", "cora"): 0.8, ("a", "citeseer"): 0.6, ("b", "cora"): 0.7, ("b", "citeseer"): 0.5}

    def content(spec: Any) -> Any:
        return {"metrics": {"test/acc": base[spec.arm, spec.levels[0][1]] + spec.seed / 100}}

    return recorded(made, content)


def test_bars_are_means_with_whiskers_in_groups(crossed: Table) -> None:
    axes = axes_of(crossed)
    bars = {(container.get_label(), at): bar for container in axes.containers[::2] for at, bar in enumerate(container)}
    widths = {key: round(bar.get_width(), 6) for key, bar in bars.items()}
    assert widths == {("a", 0): 0.81, ("a", 1): 0.61, ("b", 0): 0.71, ("b", 1): 0.51}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cora", "citeseer"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["chance", "a", "b"]
    assert texts(axes) == ["0.81", "0.61", "0.71", "0.51"]
    whisker = axes.containers[1].lines[2][0].get_segments()[0][:, 0]
    expected = summarise([0.8, 0.81, 0.82])
    assert whisker.tolist() == pytest.approx([expected.low, expected.high])
    assert axes.get_xlim()[0] == 0
    assert caption(crossed) == "Mean of 3 seeds; whiskers: 95 % interval of the mean."


def test_bars_by_arm_alone_carry_the_arms_names(crossed: Table) -> None:
    axes = axes_of(crossed, 1)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_legend() is None


def test_a_heat_map_has_the_mean_in_every_cell(crossed: Table) -> None:
    axes = axes_of(crossed, 2)
    assert np.asarray(axes.images[0].get_array()).tolist() == pytest.approx(np.array([[0.81, 0.61], [0.71, 0.51]]))
    assert texts(axes) == ["0.810", "0.610", "0.710", "0.510"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["cora", "citeseer"]


def test_a_heat_map_of_a_table_leaves_holes(study: Make, recorded: Recorded) -> None:
    figure = {"id": "h", "kind": "heatmap", "title": "H", "table": "t", "x": "task", "y": "layer", "value": "bits"}
    made = study(arms=["a"], figures=[figure])
    rows = [{"task": 10, "layer": "in", "bits": 1.0}, {"task": 9, "layer": "out", "bits": 2.0}]
    grid = np.asarray(axes_of(recorded(made, lambda spec: {"tables": {"t": rows}})).images[0].get_array().filled(-1))
    assert grid.tolist() == [[-1, 1.0], [2.0, -1]]  # tasks by size: 9, 10


def test_a_scatter_of_metrics_has_seeds_means_and_their_front(study: Make, recorded: Recorded) -> None:
    figure = {"id": "s", "kind": "scatter", "title": "S", "x": "cost/macs", "y": "test/acc"}
    made = study(arms=["small", "large", "bad"], figures=[{**figure, "front": {"x": "lower", "y": "higher"}}])
    at = {"small": (1e6, 0.7), "large": (4e6, 0.9), "bad": (5e6, 0.6)}

    def content(spec: Any) -> Any:
        macs, acc = at[spec.arm]
        return {"metrics": {"cost/macs": macs, "test/acc": acc + (spec.seed - 1) / 100}}

    axes = axes_of(recorded(made, content))
    assert axes.collections[0].get_offsets().tolist() == [[1e6, 0.69], [1e6, 0.7], [1e6, 0.71]]
    assert axes.collections[1].get_offsets().tolist() == pytest.approx(np.array([[1e6, 0.7]]))
    steps = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert steps.get_xdata().tolist() == pytest.approx([1e6, 4e6])
    assert axes.get_xlabel() == "multiply-accumulates"
    assert set(texts(axes)) == {"small", "large", "bad"}


def test_a_scatter_of_a_table_has_a_front_for_every_series(study: Make, recorded: Recorded) -> None:
    figure = {"id": "s", "kind": "scatter", "title": "S", "table": "t", "x": "cost", "y": "acc"}
    made = study(arms=["a", "b"], seeds=1, figures=[{**figure, "front": {"x": "higher", "y": "higher"}}])
    rows = {"a": [(1, 3), (2, 2), (1, 1)], "b": [(5, 5)]}
    table = recorded(made, lambda s: {"tables": {"t": [{"cost": c, "acc": a} for c, a in rows[s.arm]]}})
    fronts = [line.get_xydata().tolist() for line in axes_of(table).lines if "steps" in line.get_drawstyle()]
    assert fronts == [[[1, 3], [2, 2]], [[5, 5]]]


def test_images_come_from_tables_and_files(study: Make, recorded: Recorded) -> None:
    pixels = np.linspace(0, 1, 12).reshape(3, 4)
    encoded = io.BytesIO()
    imsave(encoded, pixels, cmap="gray", format="png")
    figures = [
        {"id": "rows", "kind": "images", "title": "R", "table": "t", "image": "pixels", "x": "step"},
        {"id": "paths", "kind": "images", "title": "P", "table": "t", "image": "path", "x": "step"},
        {"id": "bytes", "kind": "images", "title": "B", "table": "t", "image": "png", "x": "step"},
        {"id": "files", "kind": "images", "title": "F", "files": "samples/*.png"},
        {"id": "outside", "kind": "images", "title": "O", "table": "t", "image": "outside", "x": "step"},
    ]
    made = study(arms=["a", "b"], figures=figures)
    row = {"pixels": pixels.tolist(), "path": "samples/x.png", "png": encoded.getvalue(), "outside": "../../../x.png"}
    files = {"samples/x.png": encoded.getvalue(), "samples/y.png": encoded.getvalue()}
    table = recorded(made, lambda s: {"tables": {"t": [{"step": at, **row} for at in (10, 2)]}, "files": files})
    for figure in made.figures[:4]:
        canvas = draw(figure, table)
        shown = [axes.images[0] for axes in canvas.axes if axes.images]
        assert len(shown) == 4
        assert np.asarray(shown[0].get_array())[0, 0].flat[0] == pytest.approx(0)
        assert shown[0].get_array().shape[:2] == (3, 4)
        assert [axes.get_ylabel() for axes in canvas.axes[::2]] == ["a", "b"]
        assert canvas.get_supxlabel() == "Seed 0."
    assert [axes.get_title() for axes in draw(made.figures[0], table).axes[:2]] == ["2", "10"]
    with pytest.raises(UserError, match=r"figure outside: a seed 0 has no image file '../../../x.png'"):
        draw(made.figures[4], table)


def test_an_arm_looks_the_same_in_all_figures_and_no_two_are_alike_in_one(study: Make) -> None:
    names = [f"arm{at}" for at in range(12)]
    figures = [
        {**LOSS, "id": "first", "arms": names[:5]},
        {**LOSS, "id": "second", "arms": [names[6], names[2], names[7]]},
        {**LOSS, "id": "many", "arms": names[3:12]},
    ]
    made = study(arms=names, figures=figures)
    seen: dict[str, Any] = {}
    for figure in made.figures:
        found = looks(figure, made, figure.arms)
        assert len({(to_hex(look.colour), str(look.dash)) for look in found.values()}) == len(figure.arms)
        for name, look in found.items():
            assert seen.setdefault(name, look) == look
    assert [looks(made.figures[0], made, names[:5])[name].colour for name in names[:5]] == list(PALETTE[:5])


def test_series_by_number_take_a_ramp(study: Make) -> None:
    by_size = {**LOSS, "kind": "curve", "table": "t", "x": "x", "y": "y", "by": "size"}
    del by_size["metric"]
    made = study(arms=["a"], figures=[by_size])
    found = looks(made.figures[0], made, ["1", "2", "10"])
    assert len({to_hex(look.colour) for look in found.values()}) == 3
    assert to_hex(found["1"].colour) not in PALETTE


def test_labels_say_what_metrics_are() -> None:
    assert label("val/acc") == "validation accuracy"
    assert label("cost/macs") == "multiply-accumulates"
    assert label("smv") == "smv"
    assert label("test/top_5") == "test top 5"


@given(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=12), st.floats(0.01, 0.08))
def test_spread_places_keep_their_order_and_a_gap(places: list[float], gap: float) -> None:
    moved = spread(places, gap)
    order = sorted(range(len(places)), key=lambda at: (places[at], moved[at]))
    for lower, upper in pairwise(order):
        assert moved[upper] - moved[lower] >= gap - 1e-9
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in moved)


def test_places_that_are_far_apart_stay(losses: Table) -> None:
    assert spread([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.9, 0.1, 0.5])


def test_a_full_disk_leaves_the_old_figure(losses: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from replicata.errors import RunError

    canvas = draw(losses.study.figures[0], losses)
    png, _ = save(canvas, tmp_path / "loss")
    before = png.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left"):
        save(canvas, tmp_path / "loss")
    assert png.read_bytes() == before


def test_a_figure_is_drawn_again_only_if_something_changed(losses: Table, tmp_path: Path) -> None:
    folder = tmp_path / "figures"

    def drawn(table: Table) -> bool:
        """Whether a call drew the figure; one that stays is there all the same."""
        png = folder / "loss.png"
        before = png.stat().st_mtime_ns if png.exists() else 0
        (only,) = draw_all(table, folder)
        assert only.files == (png, folder / "loss.svg")
        assert all(path.is_file() for path in only.files)
        return png.stat().st_mtime_ns != before

    assert drawn(losses)
    assert not drawn(losses)
    (folder / "loss.svg").unlink()
    assert drawn(losses)
    first = next(iter(losses)).directory
    assert first is not None
    (first / "metrics.csv").write_text((first / "metrics.csv").read_text() + "2,29,0.5\n")
    assert drawn(losses)
    figures = (replace(losses.study.figures[0], title="Another"),)
    assert drawn(Table(replace(losses.study, figures=figures), losses))
    (folder / ".drawn.json").write_text("{")
    assert drawn(losses)


def test_problems_of_a_figure_are_said_every_time(study: Make, recorded: Recorded, tmp_path: Path) -> None:
    made = study(arms=["a", "b"], figures=[LOSS])
    table = recorded(made, lambda spec: {"curves": {"train/loss": [1.0]}} if spec.arm == "a" else None)
    (first,), (second,) = draw_all(table, tmp_path), draw_all(table, tmp_path)
    assert first.problems
    assert first == second


def test_a_caption_has_the_first_notes_once(study: Make, recorded: Recorded) -> None:
    bars = {"id": "it", "title": "It", "kind": "bars", "metric": "acc"}
    made = study(arms=["a", "b"], seeds=6, missing={"acc": 0.1}, figures=[bars])

    def content(spec: Any) -> Any:
        diverged = {"status": "failed", "error": {"message": "loss is nan", "kind": "diverged"}}
        return {"metrics": {"acc": 0.5}} if spec.seed == 0 else diverged

    said = caption(recorded(made, content)).replace("\n", " ")
    assert said.startswith(
        "Mean of 6 seeds; whiskers: 95 % interval of the mean. A seed 1 diverged: counted as acc = 0.1"
    )
    assert said.endswith("And 7 notes more.")


def test_windows_are_noted_once(study: Make, recorded: Recorded) -> None:
    norms = {"id": "norms", "title": "Norms", "kind": "curve", "table": "t", "x": "step", "y": "norm"}
    made = study(arms=["a", "b"], seeds=1, figures=[norms])
    table = recorded(made, lambda spec: {"tables": {"t": [{"step": at, "norm": 1.0} for at in range(400)]}})
    assert caption(table) == "One seed. Averaged over windows of 4 points."

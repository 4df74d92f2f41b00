"""Scores of polygons, tours and triangulations against definitions that are spelled out."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from torch import Tensor

from replicata.metrics import geometry
from replicata.metrics.geometry import (
    hull_scores,
    is_simple,
    order_scores,
    polygon_area,
    same_cycle,
    tour_length,
    tour_scores,
    triangle_scores,
)


def padded(*rows: list[int], width: int = 0) -> Tensor:
    width = max(width, *map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])


def shared(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int], d: tuple[int, int]) -> bool:
    """Whether segments of whole numbers have a point in common, by solving for it."""
    (rx, ry), (sx, sy), (qx, qy) = (b[0] - a[0], b[1] - a[1]), (d[0] - c[0], d[1] - c[1]), (c[0] - a[0], c[1] - a[1])
    cross = rx * sy - ry * sx
    if cross:
        return 0 <= Fraction(qx * sy - qy * sx, cross) <= 1 and 0 <= Fraction(qx * ry - qy * rx, cross) <= 1
    if qx * ry - qy * rx:
        return False
    along = 0 if rx else 1  # on one line: do they overlap?
    return max(min(a[along], b[along]), min(c[along], d[along])) <= min(
        max(a[along], b[along]), max(c[along], d[along])
    )


def simple(corners: list[tuple[int, int]]) -> bool:
    """The definition: edges that follow each other share their corner alone, others nothing."""
    size = len(corners)
    if size < 3 or len(set(corners)) < size:
        return False
    edges = [(corners[i], corners[(i + 1) % size]) for i in range(size)]
    for i, j in combinations(range(size), 2):
        (a, b), (c, d) = edges[i], edges[j]
        if j == i + 1 or (i, j) == (0, size - 1):
            corner, before, after = (b, a, d) if j == i + 1 else (a, b, c)
            u, v = (before[0] - corner[0], before[1] - corner[1]), (after[0] - corner[0], after[1] - corner[1])
            if u[0] * v[1] == u[1] * v[0] and u[0] * v[0] + u[1] * v[1] > 0:
                return False
        elif shared(a, b, c, d):
            return False
    return True


@given(
    corners=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=7, unique=True),
    repeat=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_simple_polygons_are_told_from_others(corners: list[tuple[int, int]], repeat: bool) -> None:
    """On a coarse grid, where edges often touch, overlap or run back."""
    order = list(range(len(corners))) + ([1] if repeat else [])
    points = torch.tensor([corners], dtype=torch.float32)
    found = is_simple(points, padded(order, width=10))
    assert bool(found) == simple([corners[at] for at in order])


def test_polygons_are_looked_at_alike_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.rand(40, 6, 2, generator=torch.Generator().manual_seed(0))
    order = torch.arange(6).expand(40, -1)
    together = is_simple(points, order)
    assert 0 < int(together.sum()) < 40
    monkeypatch.setattr(geometry, "HELD", 1)
    assert torch.equal(is_simple(points, order), together)


@given(st.integers(0, 999), st.integers(3, 12))
@settings(max_examples=30, deadline=None)
def test_the_true_hull_has_area_one_in_any_rotation(seed: int, n: int) -> None:
    points = torch.rand(1, n, 2, generator=torch.Generator().manual_seed(seed))
    hull = ConvexHull(points[0].double().numpy())
    corners = hull.vertices.tolist()
    truth, turned, backwards = padded(corners), padded(corners[1:] + corners[:1], width=n + 1), padded(corners[::-1])
    assert float(polygon_area(points, truth)) == pytest.approx(hull.volume)
    for found in (truth, turned):
        scores = hull_scores(points, found, truth)
        assert (float(scores["hull_acc"]), float(scores["simple"])) == (1, 1)
        assert float(scores["area"]) == pytest.approx(1)
    assert float(polygon_area(points, backwards)) == pytest.approx(-hull.volume)
    assert float(hull_scores(points, backwards, truth)["hull_acc"]) == 0


def test_what_is_no_polygon_has_no_area() -> None:
    square = torch.tensor([[[0.0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.25]]])
    truth = padded([0, 1, 2, 3])
    for answer, simple_, area in [
        ([0, 1, 2], 1, 0.5),
        ([0, 4, 1, 2, 3], 1, 0.875),
        ([0, 2, 1, 3], 0, 0),  # crosses itself
        ([0, 1], 0, 0),
        ([], 0, 0),
        ([0, 1, 2, 3, 0], 0, 0),
    ]:
        scores = hull_scores(square, padded(answer, width=6), truth)
        assert [float(scores[name]) for name in ("hull_acc", "simple", "area")] == [0, simple_, area]


@given(st.lists(st.integers(0, 5), max_size=6), st.permutations(range(6)), st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_equal_cycles(other: list[int], order: list[int], size: int, shift: int) -> None:
    truth = order[:size]
    turned = truth[shift % size :] + truth[: shift % size]
    assert bool(same_cycle(padded(turned, width=8), padded(truth, width=6)))
    rotations = [truth[at:] + truth[:at] for at in range(size)]
    assert bool(same_cycle(padded(other, width=7), padded(truth))) == (other in rotations)


def test_tours() -> None:
    square = torch.tensor([[[0.0, 0], [3, 0], [3, 4], [0, 4]]]).expand(3, -1, -1)
    scores = tour_scores(square, padded([0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 2]), padded(*[[0, 1, 2, 3]] * 3))
    assert scores["tour_len"].tolist() == [14, 18, 12]
    assert scores["tour_ratio"].tolist() == [1, 18 / 14, 12 / 14]
    assert scores["valid"].tolist() == [1, 1, 0]
    assert tour_scores(square, padded(*[[0, 1, 2]] * 3), padded(*[[0, 1, 2, 3]] * 3))["valid"].tolist() == [0] * 3
    assert tour_length(square[:1], padded([0, 1], width=3)).tolist() == [6]


def test_triangles_in_any_order() -> None:
    points = torch.zeros(6, 5, 2)
    truth = padded(*[[0, 1, 2, 1, 2, 3, 2, 3, 4]] * 6)
    found = padded(
        [4, 3, 2, 2, 0, 1, 3, 1, 2],
        [0, 1, 2, 0, 2, 1],  # the same triangle twice
        [0, 1, 2, 1, 2, 3, 2, 3, 4, 0, 1, 4],  # one that is not there
        [0, 1, 2, 1, 2, 3, 2, 3, 4, 0],  # a corner left over
        [0, 1, 2, 1, 2, 3, 2, 3, 4, 2, 1, 0],
        [],
    )
    scores = triangle_scores(points, found, truth)
    torch.testing.assert_close(scores["coverage"], torch.tensor([1, 1 / 3, 1, 1, 1, 0]))
    assert scores["triangles_acc"].tolist() == [1, 0, 0, 0, 1, 0]


def test_orders_are_right_as_they_stand() -> None:
    found = padded([2, 0, 1], [0, 2, 1], [2, 0], [2, 0, 1, 1])
    assert order_scores(torch.zeros(4, 3, 1), found, padded(*[[2, 0, 1]] * 4))["order_acc"].tolist() == [1, 0, 0, 0]

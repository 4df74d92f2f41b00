"""Planar problems: their targets against SciPy and against what defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull, Delaunay

from replicata.data.sequence.geometry import Geometry, convex_hulls, delaunay, most_steps, to_answers, to_targets
from replicata.metrics.geometry import tour_length
from replicata.optim.tours import held_karp
from replicata.streams import Streams


def data(seed: int = 0, **changes: Any) -> Geometry:
    sizes = {"n_train": 30, "n_val": 4, "n_test": 6, "val_lengths": [5], "test_lengths": [5, 8], "n_max": 8}
    made = Geometry(root="", cache="", **(sizes | changes))
    made.streams = Streams(seed)
    made.setup("fit")
    return made


def answers(split: dict[str, torch.Tensor]) -> list[list[int]]:
    return [[at for at in row.tolist() if at >= 0] for row in to_answers(split["targets"].long())]


@given(st.integers(0, 999), st.integers(3, 15))
@settings(max_examples=30, deadline=None)
def test_hulls_are_scipys_from_the_lowest_index_to_the_left(seed: int, n: int) -> None:
    points = torch.rand(5, n, 2, generator=torch.Generator().manual_seed(seed))
    for corners, hull in zip(points.double().numpy(), convex_hulls(points).tolist(), strict=True):
        found = [at for at in hull if at >= 0]
        assert hull == found + [-1] * (n - len(found))
        wanted = ConvexHull(corners).vertices.tolist()
        first = wanted.index(min(wanted))
        assert found == wanted[first:] + wanted[:first]
        for a, b in zip(found, found[1:] + found[:1], strict=True):
            for other in set(range(n)) - {a, b}:
                (ax, ay), (bx, by), (cx, cy) = corners[a], corners[b], corners[other]
                assert (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) > 0


def test_hulls_have_no_corner_between_others() -> None:
    """Points on an edge, and one point twice."""
    points = torch.tensor([[[1.0, 0], [0, 0], [2, 0], [2, 2], [2, 1], [0, 0]]])
    assert convex_hulls(points).tolist() == [[1, 2, 3, -1, -1, -1]]


@given(st.integers(0, 999), st.integers(3, 12))
@settings(max_examples=30, deadline=None)
def test_triangulations_are_scipys_in_the_order_of_their_incenters(seed: int, n: int) -> None:
    points = torch.rand(3, n, 2, generator=torch.Generator().manual_seed(seed))
    for corners, row in zip(points.double().numpy(), delaunay(points).tolist(), strict=True):
        found = np.array([at for at in row if at >= 0]).reshape(-1, 3)
        wanted = {tuple(sorted(triangle)) for triangle in Delaunay(corners).simplices.tolist()}
        assert {tuple(triangle) for triangle in found.tolist()} == wanted
        assert len(found) == len(wanted)
        assert bool((np.diff(found, axis=1) > 0).all())
        centres = []
        for a, b, c in corners[found]:
            sides = np.array([np.linalg.norm(b - c), np.linalg.norm(c - a), np.linalg.norm(a - b)])
            centres.append(tuple((sides[:, None] * np.stack([a, b, c])).sum(0) / sides.sum()))
        assert centres == sorted(centres)
        assert len(row) + 1 <= most_steps("delaunay", n)


def test_tours_and_orders() -> None:
    split = data(task="tsp").splits["test"]
    for points, length, tour in zip(split["points"], split["length"], answers(split), strict=True):
        cities = points[None, :length]
        assert len(tour) == int(length)
        best = tour_length(cities, held_karp(cities))
        torch.testing.assert_close(tour_length(cities, torch.tensor([tour])), best)
    split = data(task="sort", n_min=1, in_features=1, test_lengths=[1, 4]).splits["test"]
    for points, length, order in zip(split["points"], split["length"], answers(split), strict=True):
        numbers = points[:length, 0]
        assert numbers[order].tolist() == sorted(numbers.tolist())


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_targets_are_slots_with_one_end(rows: list[list[int]]) -> None:
    answer = torch.tensor([[*row, *[-1] * (6 - len(row))] for row in rows])
    targets = to_targets(answer)
    for row, slots in zip(rows, targets.tolist(), strict=True):
        assert slots == [at + 1 for at in row] + [0] + [-100] * (6 - len(row))
    assert torch.equal(to_answers(targets.long())[:, :6], answer)


def test_sets_of_a_number_of_points_are_the_same_whatever_else_there_is() -> None:
    few, many = data(n_train=8, test_lengths=[8]), data(n_train=60, n_test=9, test_lengths=[5, 8, 12])
    for split, n, size in (("train", 5, 2), ("train", 8, 2), ("test", 8, 6)):
        small, large = (made.splits[split] for made in (few, many))
        parts = [part["points"][part["length"] == n][:size, :n] for part in (small, large)]
        assert len(parts[0]) == size
        assert torch.equal(*parts)
    assert not torch.equal(data(1).splits["train"]["points"], data(0).splits["train"]["points"])


def test_each_number_of_points_is_as_frequent() -> None:
    lengths = data(n_train=30).splits["train"]["length"]
    assert torch.bincount(lengths).tolist() == [0] * 5 + [8, 8, 7, 7]


def test_batches_have_one_number_of_points_and_no_padding(fit: Any) -> None:
    from replicata.methods.theory.pointer_net import PointerNet

    made = data(batch_size=4)
    fit(PointerNet(problem="hull", hidden=4), made)  # gives it a trainer
    for loader in (made.train_dataloader(), made.test_dataloader()):
        for batch in loader:
            rows, n, _ = batch["points"].shape
            assert batch["length"].tolist() == [n] * rows
            assert int((batch["targets"] != -100).sum(1).max()) == batch["targets"].shape[1]
            assert int(batch["targets"].max()) <= n


def test_wrong_values_are_refused_by_name() -> None:
    for changes, named in [
        ({"task": "knapsack"}, r"data\.task"),
        ({"n_min": 2}, r"data\.n_min"),
        ({"n_min": 9}, r"data\.n_min"),
        ({"task": "tsp", "n_max": 14}, r"data\.n_max"),
        ({"test_lengths": [2, 5]}, r"data\.test_lengths"),
        ({"val_lengths": []}, r"data\.val_lengths"),
        ({"n_test": 0}, r"data\.n_train"),
    ]:
        with pytest.raises(ValueError, match=named):
            data(**changes)

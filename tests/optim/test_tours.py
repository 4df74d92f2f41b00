"""Exact and greedy tours against brute force."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.metrics.geometry import is_simple, polygon_area, tour_length
from replicata.optim import tours
from replicata.optim.tours import held_karp, nearest_neighbour


def sets(seed: int, n: int, size: int = 4) -> Tensor:
    return torch.rand(size, n, 2, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 999), n=st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_no_order_is_shorter_than_the_exact_tour(seed: int, n: int) -> None:
    points = sets(seed, n)
    every = torch.tensor([(0, *rest) for rest in permutations(range(1, n))])
    for cities, found in zip(points, tour_length(points, held_karp(points)), strict=True):
        torch.testing.assert_close(found, tour_length(cities.expand(len(every), -1, -1), every).amin())


@given(seed=st.integers(0, 999), n=st.integers(3, 9))
@settings(max_examples=20, deadline=None)
def test_tours_visit_all_cities_from_the_first_and_exact_ones_counter_clockwise(seed: int, n: int) -> None:
    points = sets(seed, n)
    exact, greedy = held_karp(points), nearest_neighbour(points)
    for tour in (exact, greedy):
        assert tour[:, 0].tolist() == [0] * 4
        assert torch.equal(tour.sort(1).values, torch.arange(n).expand(4, -1))
    assert bool((polygon_area(points, exact) > 0).all())
    assert bool(is_simple(points, exact).all())
    assert bool((tour_length(points, greedy) >= tour_length(points, exact) - 1e-9).all())


@given(seed=st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_the_greedy_tour_goes_to_the_nearest_city_left(seed: int) -> None:
    points = sets(seed, 6)
    for cities, tour in zip(points.double(), nearest_neighbour(points), strict=True):
        for step in range(1, 6):
            left = [(float((cities[tour[step - 1]] - cities[city]).norm()), int(city)) for city in tour[step:]]
            assert min(left)[1] == int(tour[step])


def test_sets_are_solved_alike_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points = sets(0, 7, size=30)
    together = held_karp(points)
    monkeypatch.setattr(tours, "HELD", 1)
    assert torch.equal(held_karp(points), together)


def test_too_many_cities_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 13 cities, got 14"):
        held_karp(sets(0, 14))

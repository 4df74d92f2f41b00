"""Tours of the travelling salesman: the shortest, and one that always goes to the nearest city. Many sets at once."""

from __future__ import annotations

from itertools import combinations
from math import comb

import torch
from torch import Tensor

MOST = 13  # cities that the exact solver takes; each more doubles time and memory
HELD = 2**20  # numbers that one step of the exact solver holds


def held_karp(points: Tensor) -> Tensor:
    r"""Shortest closed tours, by dynamic programming (Held and Karp, 1962).

    The shortest path from city 0 through all of a set :math:`S` that ends in :math:`j \in S` has length
    :math:`D(S, j) = \min_{k \in S \setminus j} D(S \setminus j, k) + d_{kj}`; these are found by the size of :math:`S`.

    Args:
        points: Cities :math:`(B, n, 2)`, :math:`1 \le n \le 13`.

    Returns:
        :math:`(B, n)` cities in the order of the tour, counter-clockwise from city 0. (The shortest tour does not cross
        itself.)

    Raises:
        ValueError: if there are no cities or too many.
    """
    n = points.shape[1]
    if not 1 <= n <= MOST:
        raise ValueError(f"exact tours are for 1 to {MOST} cities, got {n}")
    if n <= 3:
        tours = torch.arange(n, device=points.device).repeat(len(points), 1)
    else:
        widest = max(comb(n - 1, size) * size**2 for size in range(2, n))
        tours = torch.cat([_held_karp(distances(part)) for part in points.split(max(1, HELD // widest))])
    x, y = points.double().gather(1, tours[:, :, None].expand(-1, -1, 2)).unbind(2)
    area = (x * y.roll(-1, 1) - x.roll(-1, 1) * y).sum(1, keepdim=True)
    return torch.where(area < 0, tours.flip(1).roll(1, 1), tours)


def _held_karp(distance: Tensor) -> Tensor:
    """Tours :math:`(B, n)` in any direction from distances :math:`(n, n, B)`. Sets are numbers: bit j is city j + 1."""
    home, between = distance[1:, 0], distance[1:, 1:]
    last, batch = home.shape
    cities = torch.arange(last, device=distance.device)
    shortest = torch.full((2**last, last, batch), torch.inf, dtype=distance.dtype, device=distance.device)
    shortest[2**cities, cities] = home
    for size in range(2, last + 1):
        members = torch.tensor(list(combinations(range(last), size)), device=distance.device)  # (sets, size)
        whole = (2**members).sum(1, keepdim=True)
        end, previous = members[:, :, None], members[:, None, :]
        # Where both are the same city the length is infinite: the rest does not hold it.
        lengths = shortest[whole[:, :, None] - 2**end, previous] + between[previous, end]  # (sets, size, size, B)
        shortest[whole, members] = lengths.amin(2)

    rows = torch.arange(batch, device=distance.device)
    city = (shortest[-1] + home).argmin(0)
    left = torch.full_like(city, 2**last - 1)
    tour = [city]
    for _ in range(last - 1):
        left = left - 2**city
        city = (shortest[left, :, rows] + between[:, city, rows].T).argmin(1)
        tour.append(city)
    return torch.stack([torch.full_like(city, -1), *tour], 1) + 1


def nearest_neighbour(points: Tensor) -> Tensor:
    """Closed tours from city 0 that go on to the nearest city not yet visited.

    Args:
        points: Cities :math:`(B, n, 2)`.

    Returns:
        :math:`(B, n)` cities in the order of the tour.
    """
    distance = distances(points).permute(2, 0, 1).contiguous()
    rows = torch.arange(len(points), device=points.device)
    tour = [torch.zeros_like(rows)]
    for _ in range(points.shape[1] - 1):
        distance[rows, :, tour[-1]] = torch.inf
        tour.append(distance[rows, tour[-1]].argmin(1))
    return torch.stack(tour, 1)


def distances(points: Tensor) -> Tensor:
    """Euclidean distances :math:`(n, n, B)` within each set :math:`(B, n, 2)`, in double precision."""
    x, y = points.double().permute(2, 1, 0)
    return torch.hypot(x[:, None] - x, y[:, None] - y)

"""Scores of sequences of points: polygons against convex hulls, tours, triangulations. All rows at once.

Sequences are indices of points :math:`(B, T)`, -1 behind the last.
For coordinates that are multiples of :math:`2^{-24}` in [0, 1), as those of ``torch.rand`` are, every orientation here
is exact: the products have at most 48 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

HELD = 2**22  # pairs of edges looked at in one go


def at(points: Tensor, indices: Tensor) -> Tensor:
    """The points :math:`(B, T, F)` of :math:`(B, n, F)` at indices :math:`(B, T)`; point 0 where these are -1."""
    return points.gather(1, indices.clamp(min=0)[:, :, None].expand(-1, -1, points.shape[2]))


def orientation(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Twice the signed area of triangles with corners :math:`(..., 2)`: positive where a, b, c turn left."""
    ab, ac = b - a, c - a
    return ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]


def following(indices: Tensor) -> Tensor:
    """For each place of a cyclic sequence the index at the next; -1 behind the end."""
    there = indices >= 0
    after = torch.cat([indices[:, 1:], torch.full_like(indices[:, :1], -1)], 1)
    return torch.where(there, torch.where(after >= 0, after, indices[:, :1]), -1)


def polygon_area(points: Tensor, polygon: Tensor) -> Tensor:
    """Signed area :math:`(B)` of polygons, positive if counter-clockwise (the shoelace formula)."""
    points = points.double()
    first, second = at(points, polygon), at(points, following(polygon))
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return (cross * (polygon >= 0)).sum(1) / 2


def is_simple(points: Tensor, polygon: Tensor) -> Tensor:
    """Whether polygons have at least three corners, all of them different, and no edge meets another beside corners.

    Returns:
        :math:`(B)` booleans.
    """
    held = polygon.shape[1] ** 2
    parts = zip(*(column.split(max(1, HELD // max(held, 1))) for column in (points, polygon)), strict=True)
    return torch.cat([_is_simple(*part) for part in parts])


def _is_simple(points: Tensor, polygon: Tensor) -> Tensor:
    points = points.double()
    start, stop = at(points, polygon), at(points, following(polygon))  # (B, T, 2)
    there = polygon >= 0
    lengths = there.sum(1)
    place = torch.arange(polygon.shape[1], device=polygon.device)
    gap = (place[:, None] - place).abs()
    apart = there[:, :, None] & there[:, None, :] & (gap > 0)
    neighbours = (gap == 1) | (gap == (lengths - 1)[:, None, None])
    twice = ((polygon[:, :, None] == polygon[:, None, :]) & apart).any(2).any(1)

    def sides(points: Tensor) -> Tensor:
        """(B, i, j): the side of edge i on which the j-th point lies."""
        return orientation(start[:, :, None], stop[:, :, None], points[:, None, :]).sign()

    straddles = sides(start) * sides(stop) <= 0
    low, high = torch.minimum(start, stop), torch.maximum(start, stop)
    overlap = ((low[:, :, None] <= high[:, None, :]) & (low[:, None, :] <= high[:, :, None])).all(3)
    cross = straddles & straddles.transpose(1, 2) & overlap & apart & ~neighbours
    # Neighbouring edges share a corner; they meet elsewhere where the second runs back along the first.
    before, after = stop - start, at(points, following(following(polygon))) - stop
    back = (orientation(torch.zeros_like(before), before, after) == 0) & ((before * after).sum(2) < 0) & there
    return (lengths >= 3) & ~twice & ~cross.any(2).any(1) & ~back.any(1)


def same_cycle(found: Tensor, truth: Tensor) -> Tensor:
    """Whether sequences are equal up to the place where they begin: :math:`(B)` booleans.

    Args:
        found: :math:`(B, T)`, any indices.
        truth: :math:`(B, S)`, no index twice.
    """
    length = (truth >= 0).sum(1)
    equal = (found >= 0).sum(1) == length
    width = min(found.shape[1], truth.shape[1])
    found, truth = found[:, :width], truth[:, :width]
    shift = (truth == found[:, :1]).int().argmax(1)
    place = torch.arange(width, device=truth.device)
    turned = truth.gather(1, (place + shift[:, None]) % length.clamp(1, width)[:, None])
    return equal & ((found == turned) | (place >= length[:, None])).all(1)


def hull_scores(points: Tensor, found: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """How well sequences describe convex hulls.

    Args:
        points: :math:`(B, n, 2)`.
        found: :math:`(B, T)`, any sequences of indices.
        truth: :math:`(B, S)`, the hulls, counter-clockwise.

    Returns:
        Each :math:`(B)`: ``hull_acc``, 1 for the same polygon; ``area``, that of the polygon over the hull's (it lies
        within the hull), 0 where it is not simple; ``simple``, 1 where it is.
    """
    simple = is_simple(points, found)
    area = polygon_area(points, found).abs() / polygon_area(points, truth).abs()
    return {
        "hull_acc": same_cycle(found, truth).double(),
        "area": torch.where(simple, area, torch.zeros_like(area)),
        "simple": simple.double(),
    }


def tour_length(points: Tensor, tour: Tensor) -> Tensor:
    """Length :math:`(B)` of closed tours."""
    points = points.double()
    step = (at(points, tour) - at(points, following(tour))).norm(dim=2)
    return (step * (tour >= 0)).sum(1)


def tour_scores(points: Tensor, found: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """How good tours are.

    Args:
        points: Cities :math:`(B, n, 2)`.
        found: :math:`(B, T)`, any sequences of indices.
        truth: :math:`(B, n)`, the shortest tours.

    Returns:
        Each :math:`(B)`: ``tour_len``; ``valid``, 1 where every city is visited once; ``tour_ratio``, the length over
        the shortest. The lengths of tours that are not valid say nothing.
    """
    n = points.shape[1]
    once = torch.zeros(len(found), n + 1, dtype=torch.long, device=found.device)
    once.scatter_add_(1, found + 1, torch.ones_like(found))
    length = tour_length(points, found)
    return {
        "tour_len": length,
        "valid": (once[:, 1:] == 1).all(1).double(),
        "tour_ratio": length / tour_length(points, truth),
    }


def triangle_scores(points: Tensor, found: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """How much of triangulations was found; order of triangles and of their corners do not matter.

    Args:
        points: :math:`(B, n, 2)`.
        found: :math:`(B, T)`, triples of indices one after the other.
        truth: :math:`(B, S)`, the same; all triangles different.

    Returns:
        Each :math:`(B)`: ``coverage``, the share of the true triangles that are there; ``triangles_acc``, 1 where these
        are all and there is no other.
    """
    n = points.shape[1]
    codes, whole = _triangles(found, n)
    wanted, _ = _triangles(truth, n)
    equal = codes[:, :, None] == wanted[:, None, :]
    hit = (equal.any(1) & (wanted >= 0)).sum(1)
    count = (wanted >= 0).sum(1)
    foreign = (~equal.any(2) & (codes >= 0)).any(1)
    return {"coverage": hit / count, "triangles_acc": (whole & (hit == count) & ~foreign).double()}


def _triangles(sequence: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """A number for each whole triple, -1 behind the last; and whether nothing is left over."""
    missing = -sequence.shape[1] % 3
    padded = torch.nn.functional.pad(sequence, (0, missing), value=-1)
    corners = padded.unflatten(1, (-1, 3)).sort(2).values
    weights = torch.tensor([n * n, n, 1], device=sequence.device)
    codes = torch.where((corners >= 0).all(2), (corners * weights).sum(2), -1)
    return codes, (sequence >= 0).sum(1) % 3 == 0


def order_scores(points: Tensor, found: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Whether sequences are right as they stand: ``order_acc`` :math:`(B)`.

    Args:
        points: :math:`(B, n, F)`; what is scored does not depend on them.
        found, truth: :math:`(B, T)`, :math:`(B, S)`.
    """
    width = max(found.shape[1], truth.shape[1])
    found, truth = (torch.nn.functional.pad(x, (0, width - x.shape[1]), value=-1) for x in (found, truth))
    return {"order_acc": (found == truth).all(1).double()}

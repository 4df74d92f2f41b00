"""Planar problems whose answers are sequences of the input's points: convex hulls, Delaunay triangulations, tours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from replicata.data.buckets import BucketBatches
from replicata.data.loaders import Batch
from replicata.data.module import Split, TensorDataModule
from replicata.optim.tours import MOST, held_karp
from replicata.streams import Stream

Problem = Literal["hull", "sort", "delaunay", "tsp"]
IGNORED = -100  # behind the end of targets


class Geometry(TensorDataModule):
    r"""Points drawn uniformly from the unit square, and the answer to a problem about them as a sequence of slots.

    Slot 0 is the end, slot :math:`j + 1` is point :math:`j`. Of the many sequences for one answer the target is

    - ``hull``: the corners of the convex hull, counter-clockwise from that of the lowest index;
    - ``delaunay``: three corners a triangle, in increasing order; triangles by the coordinates of their incenters,
      first x, then y;
    - ``tsp``: the shortest closed tour, counter-clockwise from point 0;
    - ``sort``: all points in increasing order (here they are numbers, :math:`F = 1`);

    and then the end. All points of a batch's sets are of one number :math:`n`. Sets depend on seed, split and :math:`n`
    alone: to test further numbers, or to draw fewer sets, does not change those that there are.

    Shapes:
        - ``points``: :math:`(B, n, F)`; ``targets``: :math:`(B, T)` slots, -100 behind the end;
          ``length``: :math:`(B)`, all :math:`n`.

    Args:
        task: ``hull``, ``sort``, ``delaunay`` or ``tsp``.
        n_min, n_max: Fewest and most points of a training set; each number in between is as frequent.
        n_train: Training sets.
        n_val, n_test: Sets to evaluate, for each number of points.
        val_lengths, test_lengths: Numbers of points to evaluate.
        in_features: Declared fact: 1 for ``sort``, otherwise 2.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.

    Raises:
        ValueError: if a number of points is too small for the problem, or too large for the exact tour.
    """

    def __init__(
        self,
        *,
        task: Problem = "hull",
        n_min: int = 5,
        n_max: int = 10,
        n_train: int = 50000,
        n_val: int = 500,
        n_test: int = 500,
        val_lengths: Sequence[int] = (5, 10),
        test_lengths: Sequence[int] = (5, 10, 15, 20),
        in_features: int = 2,
        **loader: Any,
    ) -> None:
        if task not in get_args(Problem):
            raise ValueError(f"data.task must be one of {', '.join(get_args(Problem))}, got {task!r}")
        fewest, most = 1 if task == "sort" else 3, MOST if task == "tsp" else None
        if not fewest <= n_min <= n_max:
            raise ValueError(f"data.n_min and n_max must satisfy {fewest} <= n_min <= n_max, got {n_min} and {n_max}")
        for name, lengths in (("n_max", (n_max,)), ("val_lengths", val_lengths), ("test_lengths", test_lengths)):
            if not lengths or min(lengths) < fewest or (most is not None and max(lengths) > most):
                most_said = "" if most is None else f" and at most {most}"
                raise ValueError(f"data.{name} must be at least {fewest}{most_said} for {task}, got {list(lengths)}")
        if min(n_train, n_val, n_test) < 1:
            raise ValueError(f"data.n_train, n_val and n_test must be at least 1, got {n_train}, {n_val}, {n_test}")
        super().__init__(**loader)
        self.task, self.n_min, self.n_max = task, n_min, n_max
        self.counts = {"train": n_train, "val": n_val, "test": n_test}
        self.lengths = {"val": sorted(set(val_lengths)), "test": sorted(set(test_lengths))}
        self.in_features = in_features

    def load(self) -> dict[str, Split]:
        train = range(self.n_min, self.n_max + 1)
        shares = {n: len(range(at, self.counts["train"], len(train))) for at, n in enumerate(train)}
        wanted = {"train": shares} | {
            split: dict.fromkeys(lengths, self.counts[split]) for split, lengths in self.lengths.items()
        }
        return {
            split: self._draw({n: count for n, count in sizes.items() if count}, self.streams.split.at(part))
            for part, (split, sizes) in enumerate(wanted.items())
        }

    def facts(self) -> dict[str, Any]:
        return {"in_features": self.splits["train"]["points"].shape[2]}

    def transform(self, batch: Batch) -> Batch:
        """Cut the padding off."""
        n, targets = int(batch["length"][0]), batch["targets"].long()
        longest = int((targets != IGNORED).sum(1).max())
        return batch | {"points": batch["points"][:, :n], "targets": targets[:, :longest]}

    def _loader(self, split: str, batch_size: int, order: Stream | None = None) -> BucketBatches:
        trainer = self.trainer
        assert trainer is not None
        columns = self.splits[split]
        return BucketBatches(
            {name: column.to(trainer.strategy.root_device) for name, column in columns.items()},
            columns["length"],
            batch_size,
            order,
            steps=self.steps_per_epoch if order is not None else None,
            rank=trainer.global_rank,
            world=trainer.world_size,
            transform=self.transform,
        )

    def _draw(self, sizes: dict[int, int], stream: Stream) -> Split:
        """So many sets of each number of points, padded to the largest number and the longest target."""
        features, points, targets = 1 if self.task == "sort" else 2, [], []
        for n, count in sizes.items():
            # Row by row from the generator: fewer sets are the first of more.
            drawn = torch.from_numpy(stream.at(n).numpy.random((count, n, features), dtype=np.float32))
            points.append(drawn)
            targets.append(to_targets(SOLVERS[self.task](drawn)))
        widths = [max(part.shape[1] for part in parts) for parts in (points, targets)]
        pad = torch.nn.functional.pad
        return {
            "points": torch.cat([pad(part, (0, 0, 0, widths[0] - part.shape[1])) for part in points]),
            "targets": torch.cat([pad(part, (0, widths[1] - part.shape[1]), value=IGNORED) for part in targets]),
            "length": torch.repeat_interleave(torch.tensor(list(sizes)), torch.tensor(list(sizes.values()))),
        }


def most_steps(task: Problem, n: int) -> int:
    """Slots of the longest answer about ``n`` points, its end included."""
    return 3 * (2 * n - 5) + 1 if task == "delaunay" else n + 1


def to_targets(answers: Tensor) -> Tensor:
    """Slots with an end :math:`(B, T + 1)`, of 16 bits, from points :math:`(B, T)` that are -1 behind the last."""
    slots = torch.nn.functional.pad(answers + 1, (0, 1))
    return slots.masked_fill((slots == 0).cumsum(1) > 1, IGNORED).to(torch.int16)


def to_answers(targets: Tensor) -> Tensor:
    """Points :math:`(B, T)`, -1 behind the last, from slots with an end."""
    return targets.clamp(min=0) - 1


# Solvers: sets (B, n, F) -> answers (B, T), -1 behind the last ---------------------------------


def convex_hulls(points: Tensor) -> Tensor:
    """Corners of convex hulls, counter-clockwise from that of the lowest index (gift wrapping, all sets at once).

    Args:
        points: :math:`(B, n, 2)`.

    Returns:
        :math:`(B, n)` indices, -1 behind the last corner.
    """
    x, y = points.double().unbind(2)
    rows = torch.arange(len(x))
    lowest = torch.where(y == y.amin(1, keepdim=True), x, torch.inf).argmin(1)
    corner, closed, found = lowest, torch.zeros(len(x), dtype=torch.bool), []
    for _ in range(x.shape[1]):
        found.append(torch.where(closed, -1, corner))
        cx, cy = x[rows, corner], y[rows, corner]
        # The next corner is the point that has no other on the right of the line to it; of several the farthest.
        then, ax, ay = corner, torch.zeros_like(cx), torch.zeros_like(cy)
        for candidate in range(x.shape[1]):
            bx, by = x[:, candidate] - cx, y[:, candidate] - cy
            side = ax * by - ay * bx
            better = (side < 0) | ((side == 0) & (bx * bx + by * by > ax * ax + ay * ay))
            then = torch.where(better, candidate, then)
            ax, ay = torch.where(better, bx, ax), torch.where(better, by, ay)
        corner = then
        closed = closed | (corner == lowest)
        if bool(closed.all()):
            break
    hull = torch.stack(found, 1)
    hull = torch.nn.functional.pad(hull, (0, x.shape[1] - hull.shape[1]), value=-1)
    length = (hull >= 0).sum(1, keepdim=True)
    first = torch.where(hull >= 0, hull, x.shape[1]).argmin(1, keepdim=True)
    place = torch.arange(x.shape[1])
    return torch.where(place < length, hull.gather(1, (place + first) % length), -1)


def delaunay(points: Tensor) -> Tensor:
    """Delaunay triangulations by SciPy, in the canonical order of :class:`Geometry`.

    Args:
        points: :math:`(B, n, 2)`.

    Returns:
        :math:`(B, T)` indices, three a triangle, -1 behind the last.
    """
    from scipy.spatial import Delaunay

    triangles = [torch.from_numpy(Delaunay(corners).simplices).long() for corners in points.double().numpy()]
    corners = torch.nn.utils.rnn.pad_sequence(triangles, batch_first=True, padding_value=-1).sort(2).values
    x, y = incenters(points, corners).masked_fill(corners[:, :, :1] < 0, torch.inf).unbind(2)
    order = y.argsort(dim=1, stable=True)
    order = order.gather(1, x.gather(1, order).argsort(dim=1, stable=True))
    return corners.gather(1, order[:, :, None].expand(-1, -1, 3)).flatten(1)


def incenters(points: Tensor, triangles: Tensor) -> Tensor:
    """Centres :math:`(B, m, 2)` of the circles inscribed to triangles :math:`(B, m, 3)` of points :math:`(B, n, 2)`."""
    corners = points.double()[torch.arange(len(points))[:, None, None], triangles]
    opposite = (corners.roll(-1, 2) - corners.roll(1, 2)).norm(dim=3, keepdim=True)
    return (corners * opposite).sum(2) / opposite.sum(2)


def orders(points: Tensor) -> Tensor:
    """Numbers :math:`(B, n, 1)` in increasing order."""
    return points.squeeze(2).argsort(1)


SOLVERS = {"hull": convex_hulls, "sort": orders, "delaunay": delaunay, "tsp": held_karp}

"""Pointing: write a sequence of the input's own points, such as the corners of their convex hull."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.data.sequence.geometry import IGNORED, Problem, most_steps, to_answers
from replicata.metrics.geometry import at, following, hull_scores, order_scores, tour_scores, triangle_scores
from replicata.nn.decoding import beam_search
from replicata.tasks.base import Task

SCORES: dict[str, Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]] = {
    "hull": hull_scores,
    "sort": order_scores,
    "delaunay": triangle_scores,
    "tsp": tour_scores,
}
SHOWN = 2  # test sets of each number of points that are drawn
PIXELS = 72  # side of a drawing


class Pointing(Task):
    r"""Teacher-forced training by the mean negative log-likelihood of the slots, and decoding in the test.

    The model has ``forward(points, targets)``, which gives logits :math:`(B, T, n + 1)`, and ``begin`` and ``step`` as
    :func:`~replicata.nn.decoding.beam_search` wants them. The answer to ``tsp`` is held to be a tour: no point
    twice, and no end before all are visited. Other answers are free.

    Metrics: ``loss`` and ``token_acc`` of all stages, by slot and teacher-forced. In the test decoded answers are
    scored, for each number of points :math:`n` that is tested, as

    - ``hull``: ``hull_acc`` (the same polygon), ``area`` (its share of the hull's, 0 if it is not simple), ``simple``;
    - ``tsp``: ``tour_len``, ``tour_ratio`` (over the shortest), ``valid``;
    - ``delaunay``: ``coverage`` (of the triangles), ``triangles_acc``; ``sort``: ``order_acc``;

    logged as ``test/<score>_n<n>``, reported as panel ``n<n>`` under ``test/<score>``, and recorded in the table
    ``lengths``. Of hulls and tours the table ``drawings`` has the first two of each :math:`n`, on the true one.

    Args:
        problem: ``hull``, ``sort``, ``delaunay`` or ``tsp``.
        beam: Sequences that decoding follows; with 1 it is greedy.
        **task: see :class:`~replicata.tasks.base.Task`.

    Shapes:
        - ``batch["points"]``: :math:`(B, n, F)`; ``batch["targets"]``: :math:`(B, T)` slots, -100 behind the end.

    Raises:
        ValueError: if ``problem`` is unknown or ``beam`` less than 1.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"points", "targets"})
    model: Any  # as said above

    def __init__(self, problem: Problem, beam: int = 1, **task: Any) -> None:
        if problem not in get_args(Problem):
            raise ValueError(f"method.problem must be one of {', '.join(get_args(Problem))}, got {problem!r}")
        if beam < 1:
            raise ValueError(f"method.beam must be at least 1, got {beam}")
        super().__init__(**task)
        self.problem: Problem = problem
        self.beam = beam
        self.sums: dict[int, dict[str, Tensor]] = {}  # of scores and of sets, by number of points

    # Training ------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        summed, slots = self.likelihood("train", batch)
        # Every slot of a global batch has one weight, however the slots are spread over processes.
        return summed / self.trainer.strategy.reduce(slots.clone(), reduce_op="mean")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.likelihood("val", batch)

    def likelihood(self, stage: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of a batch, summed over its slots, and their number; both are metered."""
        targets = batch["targets"]
        logits = self.model(batch["points"], targets)
        there = targets != IGNORED
        summed = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        slots = there.sum().to(summed.dtype)
        hits = (logits.argmax(2) == targets).sum()
        counted = targets[there]  # a mean over slots: the meter weighs a batch by their number
        self.meters[stage].update({"loss": summed / slots, "token_acc": hits / slots}, counted, counted)
        return summed, slots

    # Decoding ------------------------------------------------------------------------------

    def decode(self, points: Tensor) -> Tensor:
        """Answers :math:`(B, T)` as indices of points, -1 behind the last."""
        memory, state = self.model.begin(points)
        n = points.shape[1]
        steps = most_steps(self.problem, n)
        return to_answers(beam_search(self.model.step, memory, state, steps=steps, width=self.beam, bar=self.bar(n))[0])

    def bar(self, n: int) -> Callable[[Tensor], Tensor] | None:
        """Which slots must not follow those written so far."""
        if self.problem != "tsp":
            return None

        def visited(written: Tensor) -> Tensor:
            barred = torch.zeros(len(written), n + 1, dtype=torch.bool, device=written.device)
            barred.scatter_(1, written, True)
            barred[:, 0] = ~barred[:, 1:].all(1)
            return barred

        return visited

    # The test ------------------------------------------------------------------------------

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.likelihood("test", batch)
        self.judge(batch)

    def judge(self, batch: Batch) -> None:
        """Score the decoded answers about sets of :math:`n` points."""
        points, truth = batch["points"].cpu(), to_answers(batch["targets"]).cpu()
        found = self.decode(batch["points"]).cpu()
        n = points.shape[1]
        if n not in self.sums and self.problem in ("hull", "tsp"):
            names = [f"{n} points", *(f"{n} points, {more + 1}" for more in range(1, SHOWN))]
            drawings = sketch(*(column[:SHOWN] for column in (points, truth, found))).tolist()
            self.record("drawings", [{"set": a, "image": b} for a, b in zip(names, drawings, strict=False)])
        sums = self.sums.setdefault(n, {})
        for name, values in SCORES[self.problem](points, found, truth).items():
            sums[name] = sums.get(name, torch.zeros(2)) + torch.tensor([float(values.sum()), len(values)])

    def on_test_start(self) -> None:
        super().on_test_start()
        self.sums = {}

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for n, sums in self.sums.items():
            means = {}
            for name, both in sums.items():
                total, sets = self.trainer.strategy.reduce(both.to(self.device), reduce_op="sum").tolist()
                means[name] = total / sets
            values = {f"test/{name}_n{n}": mean for name, mean in means.items()}
            self.log_dict(values, sync_dist=False, rank_zero_only=False)
            self.report(f"n{n}", {f"test/{name}": mean for name, mean in means.items()})
            self.record("lengths", [{"n": n, **means}])


def sketch(points: Tensor, truth: Tensor, found: Tensor) -> Tensor:
    """Drawings of closed polygons: the true one grey and thick, the one that was found orange on it, points black.

    Args:
        points: :math:`(B, n, 2)` in the unit square.
        truth, found: :math:`(B, T)` indices, -1 behind the end.

    Returns:
        :math:`(B, 72, 72, 3)` pixels in [0, 1], the y axis upwards, of two decimals.
    """
    points = points.float()
    centres = (torch.arange(PIXELS) + 0.5) / PIXELS * 1.1 - 0.05  # with a margin
    y, x = torch.meshgrid(centres.flip(0), centres, indexing="ij")
    pixels, pixel = torch.stack([x, y], 2).flatten(0, 1)[:, None], 1.1 / PIXELS
    image = torch.ones(len(points), len(pixels), 3)
    for polygon, colour, width in ((truth, (0.75, 0.75, 0.75), 2.4), (found, (0.84, 0.37, 0.0), 0.9)):
        start, stop = at(points, polygon), at(points, following(polygon))
        along, offset = (stop - start)[:, None], pixels - start[:, None]  # offset: (B, pixels, T, 2)
        part = ((offset * along).sum(3) / along.square().sum(3).clamp(min=1e-12)).clamp(0, 1)
        distance = (offset - part[..., None] * along).norm(dim=3).masked_fill((polygon < 0)[:, None], torch.inf)
        image = paint(image, distance.amin(2), colour, width * pixel, pixel)
    image = paint(image, (pixels - points[:, None]).norm(dim=3).amin(2), (0.0, 0.0, 0.0), 1.3 * pixel, pixel)
    return image.unflatten(1, (PIXELS, PIXELS)).mul(100).round() / 100


def paint(image: Tensor, distance: Tensor, colour: tuple[float, float, float], width: float, pixel: float) -> Tensor:
    """Colour where a distance is below a width, with an edge of one pixel."""
    cover = ((width - distance) / pixel + 0.5).clamp(0, 1)[..., None]
    return image * (1 - cover) + torch.tensor(colour) * cover

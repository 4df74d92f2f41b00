"""Average precision, against a count of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from replicata.metrics.detection import CocoAP

Image = dict[str, Tensor]


def scenes(count: int, classes: int = 3, seed: int = 0) -> tuple[list[Image], list[Image]]:
    rng = torch.Generator().manual_seed(seed)
    found, true = [], []
    for _ in range(count):
        many = int(torch.randint(1, 5, (), generator=rng))
        corner = 60 * torch.rand(many, 2, generator=rng)
        boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(many, 2, generator=rng)], 1)
        labels = torch.randint(classes, (many,), generator=rng)
        true.append({"boxes": boxes, "labels": labels})
        near = boxes.repeat(2, 1) + 3 * torch.randn(2 * many, 4, generator=rng)
        guess = torch.where(torch.rand(2 * many, generator=rng) < 0.8, labels.repeat(2), 0)
        found.append({"boxes": near, "labels": guess, "scores": torch.rand(2 * many, generator=rng)})
    return found, true


def average_precision(found: list[Image], true: list[Image], label: int, least: float) -> float:
    """Of one class at one IoU: greedy matching by score, 101 points of recall."""
    entries = []
    for image, (one, other) in enumerate(zip(found, true, strict=True)):
        own = one["labels"] == label
        entries += [(float(s), image, b) for s, b in zip(one["scores"][own], one["boxes"][own], strict=True)]
        assert len(other["labels"]) > 0
    total = sum(int((other["labels"] == label).sum()) for other in true)
    taken: dict[int, set[int]] = {}
    hits = []
    for _, image, box in sorted(entries, key=lambda entry: -entry[0]):
        wanted = (true[image]["labels"] == label).nonzero().flatten().tolist()
        free = [number for number in wanted if number not in taken.setdefault(image, set())]
        overlaps = [float(box_iou(box[None], true[image]["boxes"][number][None])) for number in free]
        best = int(np.argmax(overlaps)) if overlaps else -1
        hit = best >= 0 and overlaps[best] >= least
        if hit:
            taken[image].add(free[best])
        hits.append(hit)
    correct = np.cumsum(hits)
    recall, precision = correct / total, correct / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    points = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.mean([envelope[at] if at < len(envelope) else 0.0 for at in points]))


def test_it_is_the_mean_over_classes_and_overlaps() -> None:
    found, true = scenes(50)
    metric = CocoAP()
    metric.update(found[:20], true[:20])
    metric.update(found[20:], true[20:])
    values = metric.compute()

    def mean(least: float) -> float:
        return float(np.mean([average_precision(found, true, label, least) for label in range(3)]))

    assert values["ap50"] == pytest.approx(mean(0.5), abs=1e-3)
    assert values["ap75"] == pytest.approx(mean(0.75), abs=1e-3)
    assert values["ap"] == pytest.approx(np.mean([mean(x) for x in np.arange(0.5, 0.96, 0.05)]), abs=1e-3)
    assert values["ap50"] > values["ap"] > values["ap75"] > 0


def test_perfect_nothing_and_a_crowd() -> None:
    _, true = scenes(4)
    perfect = [image | {"scores": torch.ones(len(image["labels"]))} for image in true]
    metric = CocoAP()
    metric.update(perfect, true)
    assert metric.compute() == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1})
    metric.reset()
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}
    metric.update([nothing] * 4, true)
    assert metric.compute() == {"ap": 0, "ap50": 0, "ap75": 0}
    metric.reset()
    box, more = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[50.0, 50, 90, 90]])
    guess = {"boxes": torch.cat([box, more]), "scores": torch.tensor([0.5, 0.9]), "labels": torch.zeros(2).long()}
    crowd = {"boxes": torch.cat([box, more]), "labels": torch.zeros(2).long(), "iscrowd": torch.tensor([0, 1])}
    metric.update([guess], [crowd])
    assert metric.compute()["ap"] == pytest.approx(1)  # the crowd is neither wanted nor held against the guess

"""Sweeps over networks that share weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from replicata.metrics.sweep import recalibrate, sweep


def batches(n: int = 3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(20, 6, generator=generator) * 3 + 1 for _ in range(n)]
    return [{"x": x, "y": (x[:, 0] > 1).long()} for x in draws]


class Slimmable(nn.Module):
    """A hidden layer of which the first ``width`` units are active."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.width = 8

    def forward(self, x: Tensor) -> Tensor:
        active = torch.arange(8) < self.width
        return self.head(torch.relu(self.norm(self.hidden(x))) * active)


def at(model: nn.Module, width: int) -> nn.Module:
    model.width = width  # type: ignore[assignment]
    return model


def accuracy() -> MetricCollection:
    return MetricCollection({"acc": MulticlassAccuracy(2, average="micro")})


def test_recalibrated_statistics_are_those_of_the_data() -> None:
    model = Slimmable().eval()
    recalibrate(model, batches())
    hidden = [model.hidden(batch["x"]) for batch in batches()]
    torch.testing.assert_close(model.norm.running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert model.norm.momentum == pytest.approx(0.1)
    assert not model.training


def test_rows_hold_scores_and_costs_and_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = Slimmable().train()
    before = copy.deepcopy(model.state_dict())
    rows = sweep(model, [8, 2, 0], batches(), batches(), select=at, metrics=accuracy())
    assert [row["code"] for row in rows] == [8, 2, 0]
    assert {row["params"] for row in rows} == {6 * 8 + 8 + 16 + 18}
    assert {row["macs"] for row in rows} == {6 * 8 + 16}
    model.width = 8
    recalibrated = copy.deepcopy(model).eval()
    recalibrate(recalibrated, batches())
    hits = torch.cat([recalibrated(batch["x"]).argmax(1) == batch["y"] for batch in batches()])
    assert rows[0]["acc"] == pytest.approx(float(hits.float().mean()))
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_static_copies_are_counted_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    def cut(model: nn.Module, width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))

    rows = sweep(model, [1, 5], batches(), select=cut, metrics=accuracy())
    assert [row["params"] for row in rows] == [7 + 4, 35 + 12]
    assert [row["macs"] for row in rows] == [8, 40]

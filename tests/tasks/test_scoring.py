"""Scoring: metrics against scikit-learn, losses, regulariser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.data.module import Split, TensorDataModule
from replicata.metrics.gauc import auc_by_group
from replicata.tasks.scoring import Scoring


class Toy(TensorDataModule):
    """Clicks that follow a linear score."""

    def load(self) -> dict[str, Split]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(600, 3, generator=generator)
        y = (x.sum(1) + torch.randn(600, generator=generator) > 0).long()
        return {"train": {"x": x, "y": y, "group": torch.arange(600) % 20}}


class Linear(nn.Linear):
    def forward(self, batch: Batch) -> Tensor:  # type: ignore[override]
        return super().forward(batch["x"]).squeeze(1)


class Decayed(Scoring):
    def regulariser(self, batch: Batch) -> Tensor:
        return self.model.weight.square().sum()


def data() -> Toy:
    return Toy(root="", cache="", batch_size=32, eval_batch_size=64, n_val=100, n_test=200)


def method(kind: type[Scoring] = Scoring, **settings: Any) -> Scoring:
    torch.manual_seed(0)
    return kind(model=Linear(3, 1), optimizer=partial(torch.optim.Adam, lr=0.05), **settings)


@pytest.mark.parametrize("loss", ["pointwise", "pairwise"])
def test_learns_and_reports_what_scikit_learn_does(fit: Callable[..., Any], loss: str) -> None:
    scoring, toy = method(loss=loss), data()
    trainer = fit(scoring, toy, max_epochs=3)
    trainer.test(scoring, datamodule=toy, verbose=False)
    test = toy.splits["test"]
    scores = scoring.score(test).detach()
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["test/auc"] == pytest.approx(roc_auc_score(test["y"], scores), abs=1e-5)
    auc, sizes = auc_by_group(scores, test["y"], test["group"])
    assert metrics["test/gauc"] == pytest.approx(float((auc * sizes).sum() / sizes.sum()), abs=1e-5)
    assert metrics["test/auc"] > 0.75
    if loss == "pointwise":
        assert metrics["test/loss"] == pytest.approx(log_loss(test["y"], scores.sigmoid()), abs=1e-5)


def test_the_regulariser_is_for_training_alone(fit: Callable[..., Any]) -> None:
    scoring, toy = method(Decayed), data()
    trainer = fit(scoring, toy, max_epochs=1)
    assert float(trainer.callback_metrics["train/regulariser"]) > 0
    assert "val/regulariser" not in trainer.callback_metrics
    toy_val = toy.splits["val"]
    plain = F.binary_cross_entropy_with_logits(scoring.score(toy_val), toy_val["y"].float())
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(plain.detach()), abs=1e-5)


def test_an_unknown_loss_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"method\.loss"):
        method(loss="listwise")

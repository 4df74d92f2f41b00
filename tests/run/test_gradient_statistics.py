"""The gradient statistics callback."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from replicata.data.vision.images import Digits
from replicata.models.mlp import MLP
from replicata.run.callbacks.gradient_statistics import GradientStatistics
from replicata.tasks.supervised import Classification


def parts() -> tuple[Classification, Digits]:
    facts = {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10}
    data = Digits(root="", cache="", batch_size=10, n_train=120, n_val=20, n_test=20, **facts)
    torch.manual_seed(0)
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Classification(num_classes=10, model=MLP(64, 10, widths=[8]), optimizer=sgd), data


def test_norms_and_their_spread(fit: Callable[..., Any]) -> None:
    method, data = parts()
    seen: list[float] = []

    class Watched(Classification):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.append(float(torch.cat([p.grad.flatten() for p in self.parameters()]).norm()))

    method.__class__ = Watched
    trainer = fit(method, data, max_epochs=2, callbacks=[GradientStatistics(window=6, every=2)])
    rows = method.tables["gradients"]
    assert [row["step"] for row in rows] == list(range(2, 25, 2))
    assert [row["norm"] for row in rows] == pytest.approx(seen[1::2], rel=1e-5)
    windows = torch.tensor([row["norm"] for row in rows]).double().log().view(4, 3)
    logged = float(trainer.callback_metrics["train/grad_norm_log_std"])
    assert logged == pytest.approx(float(windows.std(1).mean()), rel=1e-5)


def test_state_is_restored_within_a_window() -> None:
    method, _ = parts()
    first, second = GradientStatistics(window=4), GradientStatistics(window=4)
    for step in range(6):
        for parameter in method.parameters():
            parameter.grad = torch.full_like(parameter, float(step + 1))
        if step == 3:
            second.load_state_dict(first.state_dict())
        (first if step < 3 else second).on_before_optimizer_step(None, method, None)  # type: ignore[arg-type]
    assert [row["step"] for row in method.tables["gradients"]] == [1, 2, 3, 4]
    assert len(second.spreads) == 1
    assert len(second.state_dict()["open"]) == 2


def test_dead_network_has_a_finite_spread() -> None:
    method, _ = parts()
    callback = GradientStatistics(window=2)
    for scale in (0.0, 1.0):
        for parameter in method.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        callback.on_before_optimizer_step(None, method, None)  # type: ignore[arg-type]
    assert torch.tensor(callback.spreads).isfinite().all()


@pytest.mark.parametrize(("wrong", "named"), [({"every": 0}, "every"), ({"window": 3, "every": 2}, "window")])
def test_wrong_values_are_refused_by_name(wrong: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=f"callbacks.gradient_statistics.{named}"):
        GradientStatistics(**wrong)

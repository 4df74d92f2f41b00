"""Procedure: units of work once each, in order, and going on after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from replicata.data.synthetic.sphere import Sphere
from replicata.tasks.procedure import Items, Procedure


class Sum(Procedure):
    """Each unit adds a random number to what the units before have left."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.done: list[int] = []
        self.total = 0.0

    def units(self) -> int:
        return 5

    def work(self, item: int) -> Mapping[str, float]:
        if item == self.stop_at:
            raise KeyboardInterrupt
        self.done.append(item)
        self.total += float(self.streams.noise.numpy.random())
        self.record("steps", [{"item": item, "total": self.total}])
        metrics = {"test/total": self.total, "test/size": float(len(self.split("train")["y"]))}
        return metrics | ({"test/last": 1.0} if item == 4 else {})

    def state(self) -> dict[str, Any]:
        return {"total": self.total}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.total = state["total"]


def data() -> Sphere:
    return Sphere(root="", cache="", n_train=7, n_val=3, n_test=3)


def test_units_are_worked_once_whatever_the_epochs(fit: Callable[..., Any]) -> None:
    method = Sum()
    trainer = fit(method, data(), max_epochs=4)
    assert method.done == [0, 1, 2, 3, 4]
    totals = [row["total"] for row in method.tables["steps"]]
    assert float(trainer.callback_metrics["test/total"]) == sum(totals) / 5  # to the last digit of float64
    assert float(trainer.callback_metrics["test/size"]) == 7
    assert float(trainer.callback_metrics["test/last"]) == 1
    assert [row["item"] for row in method.tables["units"]] == [0, 1, 2, 3, 4]
    assert trainer.global_step == 0


def test_stopped_and_resumed_equals_uninterrupted(
    fit: Callable[..., Any], saving: Callable[..., Any], tmp_path: Path
) -> None:
    whole = Sum()
    expected = fit(whole, data()).callback_metrics

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Sum(stop_at=3), data(), callbacks=[saving(tmp_path / "last.ckpt")])

    resumed = Sum()
    trainer = fit(resumed, data(), resume=tmp_path / "last.ckpt")
    assert resumed.done == [3, 4]
    assert resumed.tables == whole.tables
    assert {k: float(v) for k, v in trainer.callback_metrics.items()} == {k: float(v) for k, v in expected.items()}


def test_items_go_on_where_they_were() -> None:
    items = Items(5)
    walk = iter(items)
    assert [next(walk), next(walk)] == [0, 1]
    other = Items(5)
    other.load_state_dict(items.state_dict())
    assert list(other) == [2, 3, 4]
    assert list(other) == [0, 1, 2, 3, 4]


def test_split_is_a_batch_as_loaders_cut_it(fit: Callable[..., Any]) -> None:
    class Halved(Sphere):
        def transform(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return batch | {"x": batch["x"] / 2}

    method, module = Sum(), Halved(root="", cache="", n_train=7, n_val=3, n_test=3)
    fit(method, module)
    assert torch.equal(method.split("train")["x"], module.splits["train"]["x"] / 2)


def test_a_procedure_without_work_says_so(fit: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="implement work"):
        fit(Procedure(), data())

"""Early stopping against the mean of a window of past losses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from replicata.errors import UserError
from replicata.run.callbacks.early_stopping import EarlyStopping


def stops_at(losses: list[float], callback: EarlyStopping, first: int = 0, epochs: int | None = None) -> int | None:
    """The epoch after which training stops, fed with one loss per epoch."""
    for epoch, loss in enumerate(losses[first:], start=first):
        trainer: Any = SimpleNamespace(
            callback_metrics={"val/loss": torch.tensor(loss, dtype=torch.float64)},
            current_epoch=epoch,
            max_epochs=epochs or len(losses),
            should_stop=False,
        )
        callback.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
        if trainer.should_stop:
            return epoch
    return None


def reference(losses: list[float], window: int, epochs: int) -> int | None:
    """The rule as the DAGNN authors state it, epochs counted from 1, on the whole history."""
    history: list[float] = []
    for number, loss in enumerate(losses, start=1):
        history.append(loss)
        before = history[-(window + 1) : -1]
        if number > epochs / 2 and before and loss > sum(before) / len(before):
            return number - 1
    return None


@given(losses=st.lists(st.floats(0.1, 2), min_size=1, max_size=40), window=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_equals_the_rule_on_the_whole_history(losses: list[float], window: int) -> None:
    assert stops_at(losses, EarlyStopping(window=window)) == reference(losses, window, len(losses))


def test_never_stops_in_the_first_half() -> None:
    worse = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert stops_at(worse, EarlyStopping(window=3)) == 5
    assert stops_at(worse, EarlyStopping(window=3, start=0.0)) == 1
    assert stops_at(worse, EarlyStopping(window=3, start=1.0)) is None
    assert stops_at(worse[::-1], EarlyStopping(window=3)) is None


@pytest.mark.parametrize("cut", [1, 5, 7])
def test_resumes_with_its_window(cut: int) -> None:
    losses = [1.0, 0.5, 0.9, 0.4, 0.8, 0.6, 0.7, 0.61, 0.64, 0.9]
    whole = stops_at(losses, EarlyStopping(window=4))
    first, second = EarlyStopping(window=4), EarlyStopping(window=4)
    stopped = stops_at(losses[:cut], first, epochs=len(losses))
    second.load_state_dict(first.state_dict())
    assert (stopped if stopped is not None else stops_at(losses, second, first=cut)) == whole


class Constant(LightningModule):
    """One step an epoch; its validation loss rises by one each time and is logged where Nodes logs it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def on_train_epoch_end(self) -> None:
        self.log("val/loss", float(self.current_epoch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(callback: EarlyStopping) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=12, callbacks=[callback], enable_checkpointing=False, **quiet)  # type: ignore[arg-type]
    trainer.fit(Constant(), [torch.zeros(1)])
    return trainer


def test_sees_the_value_of_the_epoch_that_ends() -> None:
    callback = EarlyStopping(window=3)
    trainer = train(callback)
    assert trainer.current_epoch == 7  # the seventh is the first beyond half of twelve
    assert list(callback.values) == [4.0, 5.0, 6.0]


def test_a_metric_that_is_not_logged_is_named() -> None:
    with pytest.raises(UserError, match=r"callbacks\.early_stopping\.monitor=val/nll is not logged; logged: val/loss"):
        train(EarlyStopping(monitor="val/nll"))


@pytest.mark.parametrize(("wrong", "key"), [({"window": 0}, "window"), ({"start": 1.5}, "start")])
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"callbacks\.early_stopping\.{key}"):
        EarlyStopping(**wrong)

"""EarlyStopping: stop when the monitored loss is worse than its own recent mean."""

from __future__ import annotations

from collections import deque
from typing import Any

from lightning.pytorch import LightningModule, Trainer, callbacks

from replicata.errors import UserError


class EarlyStopping(callbacks.EarlyStopping):
    """Stops once the metric exceeds the mean of its previous ``window`` values.

    Unlike a patience since the best value, it is not misled by a single lucky epoch. It derives from
    Lightning's callback of the same name because Lightning calls those after the epoch's metrics are
    logged and before the checkpoint.

    Args:
        monitor: Metric to watch, one value per epoch; lower is better.
        window: How many of the values before the last are averaged.
        start: Share of ``trainer.max_epochs`` during which it never stops.
    """

    def __init__(self, monitor: str = "val/loss", window: int = 100, start: float = 0.5) -> None:
        if window < 1:
            raise ValueError(f"callbacks.early_stopping.window must be at least 1, got {window}")
        if not 0 <= start <= 1:
            raise ValueError(f"callbacks.early_stopping.start must be in [0, 1], got {start}")
        super().__init__(monitor=monitor, mode="min")
        self.window, self.start = window, start
        self.values: deque[float] = deque(maxlen=window)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's value is read at its end, whether validation was a loop or part of the step."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metric = trainer.callback_metrics.get(self.monitor)
        if metric is None:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise UserError(f"callbacks.early_stopping.monitor={self.monitor} is not logged; logged: {known}")
        value = float(metric)
        late = trainer.max_epochs is not None and trainer.current_epoch + 1 > self.start * trainer.max_epochs
        if late and self.values and value > sum(self.values) / len(self.values):
            trainer.should_stop = True
            self.stopped_epoch = trainer.current_epoch
        self.values.append(value)

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values), "stopped_epoch": self.stopped_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = deque(state_dict["values"], maxlen=self.window)
        self.stopped_epoch = state_dict["stopped_epoch"]

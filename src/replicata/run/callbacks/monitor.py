"""Monitor: progress for the eye, speed for the record."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

SHOWN = ("val/acc", "val/loss", "train/loss")  # two of these, if they are logged


class Monitor(Callback):
    """Progress of a fit with the time left: a Rich bar on a terminal, plain lines elsewhere.

    It also counts rows and seconds for the record; a resumed fit goes on from what its checkpoint had counted.

    Args:
        label: Name shown before the bar.
        show: Whether to show anything.
        every_seconds: Time between plain lines; the bar is redrawn ten times a second.
    """

    def __init__(self, label: str, show: bool = True, every_seconds: float = 10.0) -> None:
        self.label = label
        self.show = show
        self.terminal = show and sys.stderr.isatty()
        self.every = 0.1 if self.terminal else every_seconds
        self.samples = 0
        self.batches = 0
        self.seconds = 0.0
        self.earlier = 0.0  # seconds of the fit before it was resumed
        self._started: float | None = None
        self._next = 0.0
        self._bar: Any = None
        self._task: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = now = time.perf_counter()
        self._first = self._done(trainer)
        self._next = now + self.every
        self._total = self._expected(trainer)
        if self.terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.table import Column

            columns = (
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[scores]}", table_column=Column(no_wrap=True)),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self._total, completed=self._first, scores="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if isinstance(batch, dict) and "index" in batch:
            self.samples += batch["index"].shape[0]
        if self.show and time.perf_counter() >= self._next:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = self._elapsed()
        self._close()

    def _elapsed(self) -> float:
        return self.earlier + (0.0 if self._started is None else time.perf_counter() - self._started)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._elapsed(), "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier, self.samples = state_dict["seconds"], state_dict["samples"]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @staticmethod
    def _done(trainer: Trainer) -> int:
        return trainer.fit_loop.epoch_loop.total_batch_idx + 1

    @staticmethod
    def _expected(trainer: Trainer) -> int | None:
        if trainer.max_steps > 0:
            return trainer.max_steps
        if trainer.max_epochs is None or trainer.max_epochs < 0 or trainer.num_training_batches == float("inf"):
            return None
        return int(trainer.max_epochs * trainer.num_training_batches)

    def _draw(self, trainer: Trainer) -> None:
        now = time.perf_counter()
        self._next = now + self.every
        done = self._done(trainer)
        metrics = trainer.callback_metrics
        names = [name for name in SHOWN if name in metrics] or list(metrics)
        scores = "  ".join(f"{name} {float(metrics[name]):.3g}" for name in names[:2])
        if self._bar is not None:
            self._bar.update(self._task, completed=done, scores=scores)
            return
        left = ""
        if self._total and done > self._first and self._started is not None:
            left = f", {(self._total - done) * (now - self._started) / (done - self._first):.0f} s left"
        print(f"{self.label}: batch {done} of {self._total or '?'}{left}  {scores}", file=sys.stderr, flush=True)

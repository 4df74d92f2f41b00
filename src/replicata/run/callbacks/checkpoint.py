"""Checkpoint: everything a run needs to go on as if nothing had happened."""

from __future__ import annotations

import errno
import json
import logging
import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, callbacks
from torch import Tensor

from replicata.errors import RunError, UserError
from replicata.tasks.base import Task

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class Checkpoint(callbacks.Checkpoint):
    """Writes ``checkpoints/last.ckpt`` at batch boundaries and keeps a copy of the best weights.

    It counts batches, not optimizer steps: Lightning's ``global_step`` stays at zero without an
    optimizer and advances by two per batch with two. A checkpoint falls where no gradient is half
    accumulated and no validation is due, holds the random states, the position in the data, and the best
    weights so far, and replaces the one before by a rename; that one stays as ``previous.ckpt``.

    Args:
        every_seconds: Write at the next boundary once so many seconds have passed. Resuming is exact
            wherever a checkpoint falls, so the clock cannot change a result.
        every_n_batches: Write once so many batches have passed.
        monitor: Metric that picks the best weights.
        mode: Whether the best is its ``min`` or its ``max``.
    """

    def __init__(
        self,
        every_seconds: float | None = 30.0,
        every_n_batches: int | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"callbacks.checkpoint.mode must be min or max, got {mode!r}")
        if every_n_batches is not None and every_n_batches < 1:
            raise ValueError(f"callbacks.checkpoint.every_n_batches must be at least 1, got {every_n_batches}")
        self.every_seconds = every_seconds
        self.every_n_batches = every_n_batches
        self.monitor = monitor
        self.mode = mode
        self.finished = False
        self.metrics: dict[str, float] = {}
        self.best: dict[str, Any] | None = None
        self._batches = 0
        self._scored = -1
        self._written_batch = 0
        self._written_time = time.monotonic()

    # When ----------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written_time = time.monotonic()
        self._written_batch = self._batches
        if self.finished:  # restored from the end of training: nothing is left to fit
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches += 1
        if self._due(trainer) and self._between_units(trainer, batch_idx):
            self.write(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._score(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._score(trainer, pl_module)
        # Counted in steps, Lightning would take the end of an epoch for its middle when it resumes;
        # and the end of the last epoch is the end of training, which is written next.
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.max_steps == -1 and not last and self._due(trainer):
            self._log_epoch(trainer)
            self.write(trainer, pl_module)

    @staticmethod
    def _log_epoch(trainer: Trainer) -> None:
        """Give the epoch's row to metrics.csv now: Lightning does so after this hook, and a resumed run would not."""
        row = plain(trainer._logger_connector.metrics["log"]) | {"epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            if hasattr(logger, "flush"):
                logger.log_metrics(row, trainer.fit_loop.epoch_loop._batches_that_stepped - 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finished = True
        self.metrics = plain(trainer.callback_metrics)
        self.write(trainer, pl_module)

    def _due(self, trainer: Trainer) -> bool:
        if self.every_n_batches and self._batches - self._written_batch >= self.every_n_batches:
            return True
        if self.every_seconds is None:
            return False
        if trainer.world_size > 1:  # the processes' clocks differ, so the first one's decides, now and then
            if self._batches % 50:
                return False
            late = time.monotonic() - self._written_time >= self.every_seconds
            return bool(trainer.strategy.broadcast(late, src=0))
        return time.monotonic() - self._written_time >= self.every_seconds

    @staticmethod
    def _between_units(trainer: Trainer, batch_idx: int) -> bool:
        """Whether the state is whole here: inside an epoch, no open accumulation, no validation due."""
        done = batch_idx + 1
        if done >= trainer.num_training_batches or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return False
        if done % trainer.accumulate_grad_batches or (0 < trainer.max_steps <= trainer.global_step):
            return False
        if trainer.check_val_every_n_epoch is None:
            done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        every = trainer.val_check_batch
        return not (isinstance(every, int) and every and done % every == 0)

    # What ----------------------------------------------------------------------------------

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``last.ckpt``.

        Raises:
            RunError: if a loss was not finite, or the disk is full; the checkpoint before stays.
        """
        if isinstance(pl_module, Task):
            pl_module.assert_finite()
        for logger in trainer.loggers:
            if hasattr(logger, "flush"):
                logger.flush()
        folder = Path(trainer.default_root_dir) / "checkpoints"
        temporary = folder / ".writing.ckpt"
        try:
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                last = folder / LAST
                if last.exists():
                    last.replace(folder / PREVIOUS)
                temporary.replace(last)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            full = shutil.disk_usage(trainer.default_root_dir).free < 2**20
            if full or getattr(error, "errno", None) == errno.ENOSPC:
                message = f"the disk is full: no checkpoint was written to {folder}, the one before is kept."
                raise RunError(f"{message} Free some space and run again: it goes on from there", "disk") from error
            if isinstance(error, OSError):
                raise RunError(f"cannot write a checkpoint to {folder}: {error.strerror}", "disk") from error
            raise
        self._written_batch = self._batches
        self._written_time = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {
            "batches": self._batches,
            "scored": self._scored,
            "finished": self.finished,
            "metrics": self.metrics,
            "best": self.best,
            "random": global_random_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches, self._scored = state_dict["batches"], state_dict["scored"]
        self.finished, self.metrics, self.best = state_dict["finished"], state_dict["metrics"], state_dict["best"]
        self._random = state_dict["random"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = self.__dict__.pop("_random", None)
        if state is not None:
            restore_global_random_state(state)

    # The best weights ----------------------------------------------------------------------

    def _score(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is None or self._scored == self._batches:
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            return
        self._scored = self._batches
        score = float(value)
        better = self.best is None or (score < self.best["score"] if self.mode == "min" else score > self.best["score"])
        if better:
            self.best = {
                "score": score,
                "epoch": trainer.current_epoch,
                "metrics": plain(trainer.callback_metrics),
                "weights": {name: value.detach().clone() for name, value in pl_module.state_dict().items()},
            }

    def load_best(self, pl_module: LightningModule) -> None:
        """Give the module the best weights of the run.

        Raises:
            UserError: if the monitored metric was never logged.
        """
        if self.best is None:
            raise UserError(
                f"callbacks.checkpoint.monitor={self.monitor}: no such metric was logged;"
                f" test=best needs one of {', '.join(sorted(self.metrics)) or 'the logged metrics'}"
            )
        pl_module.load_state_dict(self.best["weights"])


def latest(directory: Path) -> Path | None:
    """The newest checkpoint of a run that can be read; a damaged one is passed over with a line in the log."""
    for name in (LAST, PREVIOUS):
        path = directory / "checkpoints" / name
        if not path.exists():
            continue
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged archive raises
            log.warning("%s is damaged (%s): passed over", path, str(error).splitlines()[0])
            continue
        return path
    return None


def plain(metrics: Any) -> dict[str, float]:
    """Metrics as Python floats."""
    return {name: float(value) for name, value in metrics.items()}


def global_random_state() -> dict[str, Any]:
    """The states of the global generators, as tensors and plain values; only layers' own dropout uses them."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": json.dumps(random.getstate()),
    }


def restore_global_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss))


def seed_globals(words: Iterable[int]) -> None:
    """Seed the global generators for one run."""
    first, second, third = words
    torch.manual_seed(first)
    np.random.seed(second % 2**32)  # noqa: NPY002
    random.seed(third)


def weights(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]

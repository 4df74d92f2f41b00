"""Task: what every method shares, whatever its problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection

from replicata.streams import Streams
from replicata.tasks.meter import Meter

Row = Mapping[str, float | int | str | bool | None]
STAGES = ("train", "val", "test")


class Task(LightningModule):
    """A LightningModule with named streams, metrics by stage, tables and panels.

    Args:
        model: The network, built by the runner from the ``model`` config; a method that has none
            leaves it out.
        optimizer: ``parameters -> optimizer``, the partial of the ``optimizer`` config.
        scheduler: The ``scheduler`` config: Lightning's ``lr_scheduler`` dict whose ``scheduler``
            is ``optimizer -> scheduler``.

    Attributes:
        parallel: ``"ddp"`` if the method may be trained on several processes, else ``"single"``.
        inputs: Columns that a batch must hold.
        streams: Random streams of the run; set by the runner.
        stages: Results of the stages the run depends on, by name; set before ``configure_model``.
        tables: Rows recorded so far, by table.
        panel: Metrics reported for cheap variants of what the run trained, by variant.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "ddp"
    inputs: ClassVar[frozenset[str]] = frozenset()
    streams: Streams
    stages: Mapping[str, Any]

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] | None = None,
        scheduler: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if model is not None:
            self.model = model
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.stages = {}
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.panel: dict[str, dict[str, float]] = {}
        self.meters: dict[str, Meter] = {}
        self._plateau: list[tuple[Any, str]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this around every hook, some forty times a step; nn.Module's own
        # __setattr__ makes that a tenth of the step of a small network.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # What a method defines -----------------------------------------------------------------

    def metrics(self, stage: str) -> MetricCollection:
        """Scores of a stage over (output, target), without prefix."""
        return MetricCollection({})

    def parameter_groups(self) -> Iterable[Any]:
        """What the optimizer gets: parameters, or groups with their own settings."""
        return self.parameters()

    # Tables and panels ---------------------------------------------------------------------

    def record(self, table: str, rows: Iterable[Row]) -> None:
        """Add rows to ``tables/<table>.parquet`` of the run; columns by name, plain values only."""
        self.tables.setdefault(table, []).extend(dict(row) for row in rows)

    def report(self, arm: str, metrics: Mapping[str, float]) -> None:
        """Report one variant of what this run trained; claims treat it as an arm."""
        self.panel.setdefault(arm, {}).update(metrics)

    # Optimizers ----------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        if self.make_optimizer is None:
            return None
        optimizer = self.make_optimizer(self.parameter_groups())
        if self.make_scheduler is None:
            return optimizer
        config = dict(self.make_scheduler)
        scheduler = config.pop("scheduler")(optimizer)
        if "monitor" in config:  # stepped here, before the checkpoint of the epoch: Lightning would do it after
            self._plateau.append((scheduler, config["monitor"]))
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **config}}

    # Hooks ---------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if not self.meters:
            self.meters = {name: Meter(name, self.metrics(name)) for name in STAGES}

    def on_fit_start(self) -> None:
        self._place_meters()

    def on_test_start(self) -> None:
        self._place_meters()

    def _place_meters(self) -> None:
        for meter in self.meters.values():
            meter.to(self.device)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        meter = self.meters["train"]
        if len(meter._buffer) == meter.every - 1:
            self.assert_finite()

    def assert_finite(self) -> None:
        """Raise if a training loss since the last check was not finite."""
        self.meters["train"].assert_finite(self.trainer.fit_loop.epoch_loop.total_batch_idx + 1)

    def on_train_epoch_end(self) -> None:
        self.assert_finite()
        self._log_meter("train")
        for scheduler, monitor in self._plateau:
            scheduler.step(self.trainer.callback_metrics[monitor])

    def on_validation_epoch_end(self) -> None:
        self._log_meter("val")

    def on_test_epoch_end(self) -> None:
        self._log_meter("test")

    def _log_meter(self, stage: str) -> None:
        meter = self.meters[stage]
        self.log_dict(meter.compute(), sync_dist=False, rank_zero_only=False)
        meter.reset()

    # Checkpoints ---------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["replicata"] = {
            "streams": self.streams.state_dict(),
            "tables": self.tables,
            "panel": self.panel,
            "meters": {name: meter.state_dict() for name, meter in self.meters.items()},
            "plateau": [scheduler.state_dict() for scheduler, _ in self._plateau],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["replicata"]
        self.streams.load_state_dict(state["streams"])
        self.tables, self.panel = state["tables"], state["panel"]
        for name, values in state["meters"].items():
            self.meters[name].load_state_dict(values)
        self._plateau_state = state["plateau"]

    def on_train_start(self) -> None:
        for (scheduler, _), values in zip(self._plateau, getattr(self, "_plateau_state", []), strict=False):
            scheduler.load_state_dict(values)


def total(losses: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of the losses, and all of them by name with the sum as ``loss``."""
    if isinstance(losses, Tensor):
        return losses, {"loss": losses}
    summed = torch.stack(list(losses.values())).sum()
    return summed, {"loss": summed, **losses}

"""Pruning: stop a trial of a search that lags behind the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer, callbacks
from omegaconf import DictConfig, OmegaConf

from replicata.errors import RunError
from replicata.run.search import Settings, open_study


class Pruning(callbacks.EarlyStopping):
    """Reports the search's metric at the end of each epoch, and ends the run when the pruner says so.

    It ends it by an error of kind ``pruned``, not as a finished run: the record says what happened, and the same
    config run by hand goes on from the last checkpoint. The search's journal is the channel to other processes.

    It derives from Lightning's callback because Lightning calls those after the epoch's metrics are logged.

    Args:
        folder: Of the search.
        number: Of the trial.
        settings: Of the search.
    """

    def __init__(self, folder: Path, number: int, settings: Settings) -> None:
        super().__init__(monitor=settings.metric)
        self.folder, self.number, self.settings = folder, number, settings
        self._study: Any = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's value is read at its end, whether validation was a loop or part of the step."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metric = trainer.callback_metrics.get(self.monitor)
        if metric is None:  # no validation yet; a metric that never comes is a mistake that the search reports
            return
        epoch, value = trainer.current_epoch + 1, float(metric)
        hopeless = self._report(epoch, value) if trainer.is_global_zero else False
        if trainer.world_size > 1:
            hopeless = bool(trainer.strategy.broadcast(hopeless, src=0))
        if hopeless and epoch != trainer.max_epochs:
            raise RunError(f"pruned after epoch {epoch} of {trainer.max_epochs}: {self.monitor} {value:.4f}", "pruned")

    def _report(self, epoch: int, value: float) -> bool:
        if self._study is None:
            self._study = open_study(self.folder, self.settings)
        storage = self._study._storage
        trial = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, self.number)
        if storage.get_trial(trial).state.is_finished():  # the run goes on by hand, after the search
            return False
        storage.set_trial_intermediate_value(trial, epoch, value)
        return bool(self._study.pruner.prune(self._study, storage.get_trial(trial)))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """It has no state: the journal has it."""


def pruning(config: DictConfig) -> list[callbacks.Callback]:
    """The callback, where the run is a trial of a search that prunes and still exists."""
    node = OmegaConf.to_container(config.search)
    assert isinstance(node, dict)
    if node["trial"] is None or node["pruner"]["kind"] == "none" or not Path(node["storage"]).is_dir():
        return []
    return [Pruning(Path(node["storage"]), node["trial"], Settings.of(node))]

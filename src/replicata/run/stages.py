"""What a stage hands to the run that needed it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from replicata.run.record import read_record


class StageResult:
    """A finished stage: its record, weights and tables.

    Args:
        directory: The stage's run directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def record(self) -> Mapping[str, Any]:
        found = read_record(self.directory)
        assert found is not None, f"{self.directory} has no record"
        return found

    @cached_property
    def config(self) -> DictConfig:
        return cast(DictConfig, OmegaConf.load(self.directory / "config.yaml"))

    def tensors(self, best: bool = False) -> dict[str, Tensor]:
        """The weights of the stage's method, last or best, by name."""
        checkpoint = torch.load(self.directory / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        if not best:
            return checkpoint["state_dict"]
        state = next(value for key, value in checkpoint["callbacks"].items() if key.startswith("Checkpoint"))
        return state["best"]["weights"]

    def module(self, best: bool = False) -> torch.nn.Module:
        """The stage's model with its trained weights, in eval mode."""
        from replicata.run.instantiate import instantiate

        model = instantiate(self.config.model, "stage.model", self.config.get("allow") or ())
        prefix = "model."
        own = {
            name.removeprefix(prefix): value for name, value in self.tensors(best).items() if name.startswith(prefix)
        }
        model.load_state_dict(own)
        return model.eval()

    def tables(self, name: str) -> Any:
        """One of the stage's tables, as an Arrow table."""
        import pyarrow.parquet as pq

        return pq.read_table(self.directory / "tables" / f"{name}.parquet")

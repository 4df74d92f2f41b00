"""Evaluation: a classifier that comes with its weights and is only scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from replicata.tasks.procedure import Procedure
from replicata.tasks.supervised import Classification


class Evaluation(Procedure, Classification):  # type: ignore[misc]  # a training batch is the number of an item
    """Trains nothing. As a stage it gives published weights to other runs, and its record says how good they are."""

    parallel: ClassVar[Literal["ddp", "single"]] = "ddp"

    def work(self, item: int) -> Mapping[str, float]:
        return {}

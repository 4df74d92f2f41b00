"""Scoring a network that comes with its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from replicata.run.stages import StageResult


def test_as_a_stage_it_hands_on_what_it_was_given(replicata: Callable[..., Any], records: Callable[..., Any]) -> None:
    assert replicata("run", "method=tasks/evaluation", "optimizer=null", "test=last", "seed=3").status == 0
    ((directory, record),) = records().items()
    assert record["status"] == "finished"
    assert 0 <= record["metrics"]["test/acc"] <= 1
    assert {"test/loss", "val/acc"} <= set(record["metrics"])

    from replicata.run.instantiate import instantiate
    from replicata.streams import Streams

    stage = StageResult(Path(directory))
    with Streams(3).init.as_global():
        expected = instantiate(stage.config.model, "model")
    for mine, given in zip(stage.module().state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, given)

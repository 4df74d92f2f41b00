"""Networks of timm."""

from __future__ import annotations

import sys

import pytest
import torch

from replicata.errors import UserError
from replicata.models.timm_model import timm_model


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"model.name=resnet18 needs timm: pip install 'replicata\[paper\]'"):
        timm_model("resnet18", 10)


def test_a_network_by_name() -> None:
    pytest.importorskip("timm")
    assert timm_model("resnet10t", 7).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 7)
    with pytest.raises(UserError, match=r"model.name=resnet9999: timm cannot make it \(Unknown model"):
        timm_model("resnet9999", 7)

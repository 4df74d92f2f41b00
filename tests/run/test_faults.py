"""Runs that a fault of a library would spoil are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from replicata.errors import UserError
from replicata.models.resnet import ResNet
from replicata.run.faults import check_convolutions

CPU = torch.device("cpu")


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's CPU is one without AVX-512."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.mark.usefixtures("avx2")
def test_a_strided_pointwise_convolution_over_few_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"^stages\.1\.0\.\S+: on a CPU without AVX-512 .* over 4 channels .*6035"):
        check_convolutions(ResNet([3, 8, 8], 2, widths=[4, 8, 8]), CPU)


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 4, 1, stride=2),
        nn.Conv2d(1, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 1, stride=2, groups=2),
        nn.Conv2d(4, 4, 1, stride=2).requires_grad_(False),
    ],
)
def test_what_is_computed_rightly_is_not(layer: nn.Module) -> None:
    check_convolutions(layer, CPU)
    images = torch.randn(2, layer.in_channels, 8, 8).contiguous(memory_format=torch.channels_last)
    if not layer.weight.requires_grad:
        return
    (found,) = torch.autograd.grad(layer(images).square().sum(), layer.weight)
    exact = copy.deepcopy(layer).double()  # which oneDNN leaves to torch's own code
    (expected,) = torch.autograd.grad(exact(images.double()).square().sum(), exact.weight)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_only_such_a_processor_is_concerned(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(4, 4, 1, stride=2)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    check_convolutions(layer, CPU)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    check_convolutions(layer, torch.device("cuda"))
    with pytest.raises(UserError):
        check_convolutions(layer, CPU)


@pytest.mark.usefixtures("avx2")
def test_a_run_says_it_in_one_line_before_it_begins(
    replicata: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["method=tasks/classification", "data=vision/digits", "model=resnet", "model.widths=[4,8,8]"]
    called = replicata("run", *words, "model.shortcut=projection")
    assert called.status == 2
    assert "model.stages.1.0" in called.err
    assert called.err.count("\n") == 1

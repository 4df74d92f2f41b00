"""Residual networks that decide which of their blocks run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from replicata.models.gated_resnet import BlockDrop, GatedResNet, RecurrentSkipNet, SkipNet

GATED = (SkipNet, RecurrentSkipNet, BlockDrop)


def network(kind: type[GatedResNet]) -> GatedResNet:
    torch.manual_seed(0)
    return kind([1, 8, 8], 4, [8, 12], 4).eval()  # at least 8 channels: see replicata.run.faults


@torch.no_grad()
@pytest.mark.parametrize("kind", [GatedResNet, *GATED])
def test_inference_on_one_image_equals_the_batch(kind: type[GatedResNet]) -> None:
    net, x = network(kind), torch.randn(30, 1, 8, 8)
    net.calibrate(x)
    logits, decisions = net.outputs(x)
    bits = 2 ** torch.arange(4)
    for i in range(len(x)):
        output, path = net(x[i : i + 1])
        assert int(path) == int((decisions[:, i].round().long() * bits).sum())
        torch.testing.assert_close(output[0], logits[i], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", GATED)
def test_calibrated_blocks_run_for_half_of_the_images(kind: type[GatedResNet]) -> None:
    net, x = network(kind), torch.randn(40, 1, 8, 8)
    net.calibrate(x)
    assert net.outputs(x)[1].round().sum(1).tolist() == [20.0] * 4


@pytest.mark.parametrize("kind", GATED)
def test_gradient_reaches_every_parameter(kind: type[GatedResNet]) -> None:
    net, x = network(kind).train(), torch.randn(20, 1, 8, 8)
    logits, decisions = net.outputs(x)
    (F.cross_entropy(logits, torch.arange(20) % 4) + decisions.mean()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_without_gates_all_blocks_run() -> None:
    assert int(network(GatedResNet)(torch.randn(1, 1, 8, 8))[1]) == 0b1111


def test_wrong_values_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"model\.blocks=5 does not divide"):
        SkipNet([1, 8, 8], 4, [4, 6], 5)
    with pytest.raises(ValueError, match=r"model\.blocks must be 1 to 62"):
        SkipNet([1, 8, 8], 4, [4], 0)

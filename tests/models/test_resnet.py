"""Residual networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from replicata.models.resnet import ResNet


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def scrambled(net: nn.Module) -> nn.Module:
    """Weights and running statistics that tell every layer from every other."""
    rng = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.mul_(0.7).add_(0.05 * torch.rand(value.shape, generator=rng) + 0.2 * name.endswith("running_var"))
    return net.eval()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (torchvision.models.resnet18(num_classes=7), {"blocks": [2, 2, 2, 2], "widths": [64, 128, 256, 512]}),
        (
            torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=7),
            {"blocks": [1, 2, 1, 1], "widths": [64, 128, 256, 512], "block": "bottleneck"},
        ),
        (
            torchvision.models.ResNet(
                torchvision.models.resnet.Bottleneck,
                [1, 1, 2, 2],
                num_classes=7,
                replace_stride_with_dilation=[False, True, True],
            ),
            {
                "blocks": [1, 1, 2, 2],
                "widths": [64, 128, 256, 512],
                "block": "bottleneck",
                "strides": [1, 2, 1, 1],
                "dilations": [1, 1, 2, 4],
            },
        ),
    ],
    ids=["basic", "bottleneck", "dilated"],
)
def test_equal_weights_give_torchvisions_outputs(theirs: nn.Module, ours: dict[str, Any]) -> None:
    net = ResNet([3, 64, 64], 7, stem="imagenet", **ours)
    scrambled(theirs)
    assert [value.shape for value in net.state_dict().values()] == [v.shape for v in theirs.state_dict().values()]
    for mine, yours in zip(net.state_dict().values(), theirs.state_dict().values(), strict=True):
        mine.copy_(yours)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net.eval()(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_initial_weights_are_torchvisions() -> None:
    net, theirs = ResNet([3, 8, 8], 10, stem="imagenet", widths=[64, 128, 256]), torchvision.models.resnet18()
    mine, yours = net.stages[1][0].conv2.weight, theirs.layer2[0].conv2.weight
    assert mine.std().item() == pytest.approx(yours.std().item(), rel=0.02)


def test_cifar_networks_have_the_papers_size() -> None:
    for n, millions in ((3, 0.27), (9, 0.85)):  # ResNet-20 and -56, He et al. (2016), Table 6
        assert parameters(ResNet([3, 32, 32], 10, blocks=[n] * 3, shortcut="pad")) / 1e6 == pytest.approx(
            millions, abs=0.006
        )


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact"])
@pytest.mark.parametrize("shortcut", ["projection", "pad", "none"])
def test_shapes_of_the_stages(block: Any, shortcut: Any) -> None:
    net = ResNet([1, 9, 8], 4, blocks=[1, 2], widths=[8, 12], block=block, shortcut=shortcut)
    factor = 4 if block == "bottleneck" else 1
    x = torch.randn(3, 1, 9, 8)
    assert [tuple(f.shape) for f in net.features(x)] == [(3, 8 * factor, 9, 8), (3, 12 * factor, 5, 4)]
    assert net(x).shape == (3, 4)
    net(x).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def silenced(net: nn.Module) -> nn.Module:
    """No convolution inside a block has any effect: only shortcuts are left."""
    for name, parameter in net.stages.named_parameters():
        if "conv" in name:
            nn.init.zeros_(parameter)
    return net.eval()


def test_option_a_leaves_out_positions_and_adds_zero_channels() -> None:
    net = silenced(ResNet([3, 6, 6], 2, blocks=[1, 1], widths=[4, 7], shortcut="pad"))
    first, second = net.features(torch.randn(2, 3, 6, 6))
    assert torch.equal(second[:, 1:5], first[:, :, ::2, ::2])
    assert not second[:, :1].any()
    assert not second[:, 5:].any()


def test_without_shortcuts_nothing_passes_a_silent_block() -> None:
    net = silenced(ResNet([3, 6, 6], 2, shortcut="none"))
    assert not net.features(torch.randn(2, 3, 6, 6))[-1].any()


def test_preactivation_is_the_papers_formula() -> None:
    net = scrambled(ResNet([3, 8, 8], 5, blocks=[1, 1], widths=[4, 6], block="preact"))
    x = torch.randn(2, 3, 8, 8)

    def residual(block: Any, h: Tensor) -> Tensor:
        first = block.conv1(F.relu(block.norm1(h)))
        return block.conv2(F.relu(block.norm2(first)))

    (one,), (two,) = net.stages
    h = net.stem[0](x)
    h = h + residual(one, h)
    h = F.conv2d(F.relu(two.norm1(h)), two.projection.weight, stride=2) + residual(two, h)
    torch.testing.assert_close(net(x), net.head(F.relu(net.last[0](h)).mean((2, 3))))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"block": "base"}, "model.block"),
        ({"stem": "imagnet"}, "model.stem"),
        ({"shortcut": "A"}, "model.shortcut"),
        ({"widths": [4, 8]}, "model.widths must be 3"),
        ({"blocks": [1, 0, 1]}, "model.blocks"),
        ({"strides": [1, 2]}, "model.strides"),
        ({"dilations": [1, 0, 1]}, "model.dilations"),
        ({"widths": [8, 4, 4], "shortcut": "pad"}, "model.shortcut=pad cannot go from 8 channels to 4"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ResNet(**({"in_shape": [3, 8, 8], "num_classes": 10} | wrong))

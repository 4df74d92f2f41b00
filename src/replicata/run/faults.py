"""Faults of libraries that would end a run without a word, or give it wrong numbers: such a run is refused."""

from __future__ import annotations

import torch
from torch import nn

from replicata.errors import UserError


def check_convolutions(module: nn.Module, device: torch.device) -> None:
    """Refuse what oneDNN 3.12, which torch 2.14 brings, cannot compute on a CPU with AVX2 and without AVX-512.

    In the backward pass of a strided 1x1 convolution over fewer than eight channels, images in the memory format
    ``channels_last``, it writes past its workspace: the process crashes, hangs, or goes on with wrong gradients
    (oneDNN issue 6035). Seen with two to seven channels in one group, with one thread and with several.

    Images in torch's default format are computed rightly, but which format a layer will get is not known beforehand, so
    its run is refused all the same. Layers that a method makes later, such as the candidates of an architecture search,
    are not seen.

    Args:
        module: Whatever holds the layers.
        device: Where they are trained.

    Raises:
        UserError: with the name of the first such layer.
    """
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return
    for name, layer in module.named_modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.groups == 1
            and 1 < layer.in_channels < 8
            and layer.weight.requires_grad
        ):
            raise UserError(
                f"{name}: on a CPU without AVX-512 torch crashes or computes wrong gradients for a strided 1x1"
                f" convolution over {layer.in_channels} channels (oneDNN issue 6035); give it at least 8 channels"
            )

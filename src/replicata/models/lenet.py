"""LeNet in the three forms that are trained today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from replicata.errors import nearest


class Form(NamedTuple):
    """Layer table of a LeNet; its kernels are 5x5, and each convolution is followed by 2x2 max pooling."""

    channels: tuple[int, int]
    padding: tuple[int, int]
    widths: tuple[int, ...]
    convolutions_activated: bool


FORMS: dict[str, Form] = {
    "lenet": Form((6, 16), (0, 0), (120, 84), True),
    "lenet5": Form((6, 16), (2, 0), (120, 84), True),
    "caffe": Form((20, 50), (0, 0), (500,), False),
}


class LeNet(nn.Module):
    """Two convolutions and two or three linear layers, with ReLU.

    It runs channels-last, which is faster on CPUs and on GPUs with tensor cores.

    Args:
        in_shape: Channels, height and width of an image.
        num_classes: Size of the output.
        form: ``lenet``: 6 and 16 channels, then 120 and 84 units, the common small one for 28x28 images (44,426
            parameters for ten classes); ``lenet5``: the same with the first convolution padded by two, so that a
            28x28 image takes the path of the 32x32 one of LeCun et al. 1998 (61,706 parameters), without
            its sparse connections; ``caffe``: 20 and 50 channels, then 500 units, with the only ReLU after these
            (431,080 parameters).

    Shapes:
        - input: :math:`(B, C, H, W)`; output: :math:`(B, K)`.
    """

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, *, form: Literal["lenet", "lenet5", "caffe"] = "lenet"
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"model.form: there is no {form!r}; {nearest(form, FORMS)}")
        super().__init__()
        table = FORMS[form]
        channels, *sides = in_shape
        self.features = nn.Sequential()
        for width, padding in zip(table.channels, table.padding, strict=True):
            self.features.append(nn.Conv2d(channels, width, 5, padding=padding))
            if table.convolutions_activated:
                self.features.append(nn.ReLU())
            self.features.append(nn.MaxPool2d(2))
            channels, sides = width, [(side + 2 * padding - 4) // 2 for side in sides]
        if min(sides) < 1:
            raise ValueError(f"model: nothing is left of an image of {list(in_shape)} after LeNet's convolutions")
        size = channels * sides[0] * sides[1]
        self.classifier = nn.Sequential(nn.Flatten())
        for width in table.widths:
            self.classifier.extend([nn.Linear(size, width), nn.ReLU()])
            size = width
        self.classifier.append(nn.Linear(size, num_classes))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x.contiguous(memory_format=torch.channels_last)))

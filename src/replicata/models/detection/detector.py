"""What one-stage detectors share: a pyramid, two towers on every level, predictions for every cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from replicata.models.detection.backbones import conv_norm
from replicata.nn.anchors import Size

PRIOR = 0.01  # probability of an object that a prediction starts with


class Dense(NamedTuple):
    """Predictions for all places of all levels, level by level and row by row.

    Attributes:
        logits: :math:`(B, N, K)` of the classes.
        codes: :math:`(B, N, 4)`, a box as the detector encodes it.
        quality: :math:`(B, N)` logits of how well a place sees its object; ``None``: the detector has none.
        sizes: Height and width of each level.
    """

    logits: Tensor
    codes: Tensor
    quality: Tensor | None
    sizes: list[Size]


class Detector(nn.Module):
    """Base of one-stage detectors. Towers and predictions are the same for all levels.

    The three steps are apart, so that a method can change what goes from one to the next: :meth:`pyramid`,
    :meth:`towers`, :meth:`predict`. It runs channels-last.

    Args:
        pyramid: Feature pyramid on a backbone.
        num_classes: :math:`K`.
        depth: Convolutions of each tower, each followed by group normalisation and ReLU.
        groups: Groups of the normalisation.
        wide: Width of one more convolution at the end of each tower; 0: none.
        per_cell: Places that each cell stands for.

    Attributes:
        channels: Of the towers' output.
    """

    def __init__(
        self,
        pyramid: nn.Module,
        num_classes: int,
        *,
        depth: int = 4,
        groups: int = 32,
        wide: int = 0,
        per_cell: int = 1,
    ) -> None:
        if depth < 1:
            raise ValueError(f"model.depth must be at least 1, got {depth}")
        if wide < 0 or wide % groups:
            raise ValueError(f"model.wide must be 0 or a multiple of groups={groups}, got {wide}")
        super().__init__()
        levels: Any = pyramid
        self.levels, self.num_classes, self.per_cell = pyramid, num_classes, per_cell
        self.strides: list[int] = list(levels.strides)
        widths = [levels.channels] * (depth + 1) + ([wide] if wide else [])
        self.channels: int = widths[-1]
        self.cls_tower, self.reg_tower = _tower(widths, groups), _tower(widths, groups)
        self.cls = nn.Conv2d(self.channels, per_cell * num_classes, 3, padding=1)
        self.reg = nn.Conv2d(self.channels, per_cell * 4, 3, padding=1)
        for tower in (self.cls_tower, self.reg_tower, self.cls, self.reg):
            small_normal(tower)
        nn.init.constant_(self.cls.bias, prior_bias())  # type: ignore[arg-type]

    # What a detector defines ---------------------------------------------------------------

    def losses(self, dense: Dense, boxes: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by name, each summed over the batch, and the number of positive places that they are divided by.

        Args:
            dense: What was predicted.
            boxes: :math:`(B, M, 4)` true boxes in pixels.
            labels: :math:`(B, M)` their classes; -1 where there is none.
        """
        raise TypeError(f"{type(self).__name__} does not say what its losses are")

    def boxes(self, dense: Dense) -> Tensor:
        """The boxes :math:`(B, N, 4)` that ``dense.codes`` stand for."""
        raise TypeError(f"{type(self).__name__} does not say what its boxes are")

    def scores(self, dense: Dense) -> Tensor:
        """Scores :math:`(B, N, K)` by which detections are ranked."""
        return dense.logits.sigmoid()

    # The steps -----------------------------------------------------------------------------

    def pyramid(self, x: Tensor) -> list[Tensor]:
        return self.levels(x.contiguous(memory_format=torch.channels_last))

    def towers(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features for the classes and for the boxes, of every level."""
        return [self.cls_tower(level) for level in levels], [self.reg_tower(level) for level in levels]

    def predict(self, cls: Sequence[Tensor], reg: Sequence[Tensor]) -> Dense:
        """Predictions from the towers' features."""
        logits = by_place([self.cls(level) for level in cls], self.num_classes)
        codes = by_place([self.reg(level) for level in reg], 4)
        return Dense(logits, codes, None, sizes_of(cls))

    def forward(self, x: Tensor) -> Dense:
        return self.predict(*self.towers(self.pyramid(x)))

    def places(self, dense: Dense) -> list[int]:
        """How many places each level has."""
        return [height * width * self.per_cell for height, width in dense.sizes]


def sizes_of(levels: Sequence[Tensor]) -> list[Size]:
    """Height and width of each level."""
    return [(level.shape[2], level.shape[3]) for level in levels]


def by_place(levels: Sequence[Tensor], values: int) -> Tensor:
    """Levels :math:`(B, A V, H, W)` as places with ``values`` numbers each: :math:`(B, N, V)`."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, values) for level in levels], 1)


def small_normal(part: nn.Module) -> None:
    """Weights of all convolutions from N(0, 0.01), biases 0, as usual in detection heads."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def prior_bias() -> float:
    """The logit of :data:`PRIOR`."""
    return -math.log((1 - PRIOR) / PRIOR)


def _tower(widths: Sequence[int], groups: int) -> nn.Sequential:
    return nn.Sequential(*(layer for one, two in pairwise(widths) for layer in conv_norm(one, two, groups)))

"""A convolutional network with early exits, whose inference is ordinary Python control flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from replicata.nn.exits import balanced_threshold, exit_paths


class EarlyExitCNN(nn.Module):
    r"""Blocks of convolution, batch normalisation and ReLU, an exit after each; the last exit is the classifier.

    Inference on one image stops at the first exit whose largest probability reaches the threshold. If none does,
    the most confident of all outputs counts (Kaya, Hong, Dumitras, Shallow-Deep Networks, ICML 2019).

    Args:
        in_shape: Channels, height and width of an image.
        num_classes: Classes :math:`K`.
        widths: Channels of the blocks; each block but the first halves height and width.
        convolutions: Convolutions of a block.
        threshold: Probability :math:`\tau` at which inference stops, until :meth:`calibrate` sets it.

    Shapes:
        - ``forward``: one image :math:`(1, C, H, W)` -> logits :math:`(1, K)` and the path, an integer tensor:
          the exit that was taken, or the number of exits plus that of the most confident one if none was;
        - ``outputs``: :math:`(B, C, H, W)` -> logits of all exits :math:`(E, B, K)`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        widths: Sequence[int] = (16, 32, 64, 64),
        *,
        convolutions: int = 1,
        threshold: float = 0.9,
    ) -> None:
        if len(widths) < 2:
            raise ValueError(f"model.widths must name at least two blocks, got {list(widths)}")
        if convolutions < 1:
            raise ValueError(f"model.convolutions must be at least 1, got {convolutions}")
        if min(in_shape[1:]) < 2 ** (len(widths) - 1):
            raise ValueError(f"model.widths: {len(widths)} blocks leave nothing of an image of {list(in_shape)}")
        super().__init__()
        channels = [in_shape[0], *widths]
        self.blocks = nn.ModuleList(
            _block(before, after, convolutions, pool=number > 0)
            for number, (before, after) in enumerate(zip(channels, widths, strict=False))
        )
        self.heads = nn.ModuleList(_head(width, num_classes) for width in widths)
        self.threshold = nn.Buffer(torch.tensor(threshold))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        best = torch.tensor(-1.0)
        output = torch.zeros(1)
        path = torch.tensor(-1)
        for i, (block, head) in enumerate(zip(self.blocks, self.heads)):  # noqa: B905  TorchScript knows no `strict`
            x = block(x)
            logits = head(x)
            confidence = logits.softmax(1).max()
            if confidence >= self.threshold:
                return logits, torch.tensor(i)
            if confidence > best:
                best = confidence
                output = logits
                path = torch.tensor(len(self.blocks) + i)
        return output, path

    def outputs(self, x: Tensor) -> Tensor:
        """What every exit says, for training and analysis."""
        logits = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            logits.append(head(x))
        return torch.stack(logits)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Choose the threshold at which the largest share of images on one path is smallest."""
        confidence = self.outputs(x).softmax(-1).amax(-1)
        self.threshold.fill_(balanced_threshold(confidence))

    @torch.no_grad()
    def expected_cost(self, x: Tensor, costs: Sequence[float]) -> float:
        """Mean over images of the cost of the blocks that run, with ``costs`` that of each block with its exit."""
        paths = exit_paths(self.outputs(x).softmax(-1).amax(-1), self.threshold)
        last = paths.clamp(max=len(costs) - 1)
        return float(torch.tensor(costs, dtype=torch.float64).cumsum(0)[last].mean())


def _block(before: int, after: int, convolutions: int, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if pool else []
    for number in range(convolutions):
        layers += [
            nn.Conv2d(before if number == 0 else after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _head(width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(width, num_classes))

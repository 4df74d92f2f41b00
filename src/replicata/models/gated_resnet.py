"""Residual networks that decide for each image which of their blocks run; inference is ordinary control flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.nn.straight_through import straight_through


class GatedResNet(nn.Module):
    r"""What the networks here share, and by itself the plain residual network without gates.

    A stem, then blocks of two convolutions with :math:`x \leftarrow \mathrm{relu}(x + f_i(x))`, then a linear layer
    on the mean over all positions. At the first block of a stage but the first, a strided projection (which always
    runs) halves the sides.

    Args:
        in_shape: Channels, height and width of an image.
        num_classes: Classes :math:`K`.
        widths: Channels of the stages.
        blocks: Blocks :math:`L` of the whole network, spread evenly over the stages.

    Shapes:
        - ``forward``: one image :math:`(1, C, H, W)` -> logits :math:`(1, K)` and the path, an integer tensor with
          bit :math:`i` set if block :math:`i` ran;
        - ``outputs``: :math:`(B, C, H, W)` -> logits :math:`(B, K)` and the decisions :math:`(L, B)`, with gradient.
    """

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, widths: Sequence[int] = (16, 32, 64), blocks: int = 6
    ) -> None:
        if not 1 <= blocks <= 62:
            raise ValueError(f"model.blocks must be 1 to 62, the bits of a path, got {blocks}")
        if not widths or blocks % len(widths):
            raise ValueError(f"model.blocks={blocks} does not divide into the stages of model.widths={list(widths)}")
        super().__init__()
        stages = [width for width in widths for _ in range(blocks // len(widths))]
        self.stem = nn.Sequential(_convolution(in_shape[0], widths[0]), nn.ReLU())
        self.projections = nn.ModuleList(
            nn.Identity() if before == after else _convolution(before, after, kernel=1, stride=2)
            for before, after in zip([widths[0], *stages], stages, strict=False)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolution(width, width), nn.ReLU(), _convolution(width, width)) for width in stages
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(widths[-1], num_classes))
        self.channels = stages
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        for projection, block in zip(self.projections, self.blocks):  # noqa: B905  TorchScript knows no `strict`
            x = projection(x)
            x = F.relu(x + block(x))
        return self.head(x), torch.tensor(2 ** len(self.blocks) - 1)

    # The same in batches ---------------------------------------------------------------------

    def gate_logits(self, i: int, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The logits :math:`(B)` of block :math:`i`'s gate, given its input, and what the next gate is told."""
        return x.new_ones(len(x)), None

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._walk(x, centre=False)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the gates' biases so that each block runs for half of the images that are given."""
        self._walk(x, centre=True)

    def centre(self, i: int, median: Tensor) -> None:
        """Shift the bias of gate :math:`i` by minus the median of its logits; without gates there is none."""

    def _walk(self, x: Tensor, centre: bool) -> tuple[Tensor, Tensor]:
        memory = self.policy_logits(x)
        x = self.stem(x)
        decisions = []
        for i, (projection, block) in enumerate(zip(self.projections, self.blocks, strict=True)):
            x = projection(x)
            logits, memory = self.gate_logits(i, x, memory)
            if centre:
                median = logits.quantile(0.5)
                self.centre(i, median)
                logits = logits - median
            runs = straight_through(logits)
            mask = runs[:, None, None, None]
            x = mask * F.relu(x + block(x)) + (1 - mask) * x
            decisions.append(runs)
        return self.head(x), torch.stack(decisions)

    def policy_logits(self, x: Tensor) -> Tensor | None:
        """What is decided from the image itself, before any block; by default nothing."""
        return None


class SkipNet(GatedResNet):
    """Every block has a gate that sees the block's input (Wang et al., SkipNet, ECCV 2018, feed-forward gates)."""

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, widths: Sequence[int] = (16, 32, 64), blocks: int = 6
    ) -> None:
        super().__init__(in_shape, num_classes, widths, blocks)
        self.gates = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(width, 1)) for width in self.channels
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        path = torch.tensor(0)
        for i, (projection, block, gate) in enumerate(zip(self.projections, self.blocks, self.gates)):  # noqa: B905
            x = projection(x)
            if gate(x).sigmoid() > 0.5:
                x = F.relu(x + block(x))
                path = path + 2**i
        return self.head(x), path

    def gate_logits(self, i: int, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.gates[i](x)[:, 0], None

    @torch.no_grad()
    def centre(self, i: int, median: Tensor) -> None:
        self.gates[i][-1].bias -= median  # type: ignore[index]


class RecurrentSkipNet(GatedResNet):
    """One LSTM cell decides on all blocks in turn (SkipNet's recurrent gate)."""

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 6,
        gate_width: int = 10,
    ) -> None:
        super().__init__(in_shape, num_classes, widths, blocks)
        self.gate_width = gate_width
        self.reads = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(width, gate_width))
            for width in self.channels
        )
        self.cell = nn.LSTMCell(gate_width, gate_width)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in self.channels)
        self.decide = nn.Linear(gate_width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        h = torch.zeros(1, self.gate_width)
        c = torch.zeros(1, self.gate_width)
        path = torch.tensor(0)
        for i, (projection, block, read) in enumerate(zip(self.projections, self.blocks, self.reads)):  # noqa: B905
            x = projection(x)
            h, c = self.cell(read(x), (h, c))
            if (self.decide(h) + self.biases[i]).sigmoid() > 0.5:
                x = F.relu(x + block(x))
                path = path + 2**i
        return self.head(x), path

    def gate_logits(self, i: int, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        read = self.reads[i](x)
        h, c = self.cell(read) if memory is None else self.cell(read, (memory[0], memory[1]))
        return (self.decide(h) + self.biases[i])[:, 0], torch.stack([h, c])

    @torch.no_grad()
    def centre(self, i: int, median: Tensor) -> None:
        self.biases[i] -= median


class BlockDrop(GatedResNet):
    """A small policy network sees the image and decides on all blocks at once (Wu et al., BlockDrop, CVPR 2018)."""

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, widths: Sequence[int] = (16, 32, 64), blocks: int = 6
    ) -> None:
        super().__init__(in_shape, num_classes, widths, blocks)
        self.policy = nn.Sequential(
            _convolution(in_shape[0], 16, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
        )
        self.decide = nn.Linear(16, blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        policy = self.decide(self.policy(x)).sigmoid()
        x = self.stem(x)
        path = torch.tensor(0)
        for i, (projection, block) in enumerate(zip(self.projections, self.blocks)):  # noqa: B905
            x = projection(x)
            if policy[0, i] > 0.5:
                x = F.relu(x + block(x))
                path = path + 2**i
        return self.head(x), path

    def policy_logits(self, x: Tensor) -> Tensor | None:
        return self.decide(self.policy(x))

    def gate_logits(self, i: int, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert memory is not None
        return memory[:, i], memory

    @torch.no_grad()
    def centre(self, i: int, median: Tensor) -> None:
        self.decide.bias[i] -= median


def _convolution(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(after)
    )

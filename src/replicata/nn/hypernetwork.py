r"""Networks that generate the tensors of another network.

A hypernetwork maps a condition to tensors of given names and shapes (a *spec*). Here it is an MLP whose
last layer is one linear map to all tensors, of which each owns a slice of rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from replicata.errors import nearest
from replicata.nn.functional import Spec

Encoding = Literal["none", "cos_sin", "z_1mz"]
FACTOR = {"none": 1, "cos_sin": 2, "z_1mz": 2}
GAIN = math.sqrt(2 / (1 + 0.01**2))  # of nn.LeakyReLU with its default slope (He et al. 2015, Eq. 15)


def encode(z: Tensor, encoding: Encoding) -> Tensor:
    r"""Encode conditions in :math:`[0, 1]^d`, shape :math:`(*, d)`.

    ``cos_sin`` gives :math:`[\cos(\pi z/2), \sin(\pi z/2)]`, whose Euclidean norm is :math:`\sqrt d` for
    every :math:`z`; ``z_1mz`` gives :math:`[z, 1 - z]`, whose L1 norm is :math:`d`. Both have :math:`2d`
    entries. ``none`` leaves conditions of any range as they are.
    """
    if encoding == "cos_sin":
        angle = z * (math.pi / 2)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)
    if encoding == "z_1mz":
        return torch.cat([z, 1 - z], dim=-1)
    return z


def unflatten(flat: Tensor, spec: Spec) -> dict[str, Tensor]:
    """Cut vectors :math:`(*, n)` into the tensors of a spec, :math:`(*, shape)` each, in order."""
    lead = flat.shape[:-1]
    parts = flat.split([shape.numel() for shape in spec.values()], dim=-1)
    return {name: part.reshape(*lead, *spec[name]) for name, part in zip(spec, parts, strict=True)}


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """The inverse of :func:`unflatten` for tensors without a leading axis."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def fan_in(shape: torch.Size) -> int:
    """Inputs of one output unit of a linear or convolutional weight."""
    return shape[1:].numel()


def initial_weights(spec: Spec) -> dict[str, Tensor]:
    """Tensors as a network of its own would start: Kaiming normal (fan-in) weights, zero biases."""
    tensors = {name: torch.zeros(shape) for name, shape in spec.items()}
    for tensor in tensors.values():
        if tensor.ndim > 1:
            nn.init.normal_(tensor, std=GAIN / math.sqrt(fan_in(tensor.shape)))
    return tensors


class Independent(nn.Module):
    """The tensors of a spec as parameters, the same for every condition: no hypernetwork at all."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.theta = nn.Parameter(flatten(initial_weights(spec)))

    def forward(self, condition: Tensor) -> dict[str, Tensor]:
        return unflatten(self.theta, self.spec)


class Hypernetwork(nn.Module):
    r"""An MLP from conditions to the tensors of a spec.

    Args:
        spec: Names and shapes of the tensors to generate, as in
            :attr:`Functional.spec <replicata.nn.functional.Functional>`.
        in_features: Size :math:`d` of a condition.
        widths: Hidden widths, each followed by a LeakyReLU; empty: a linear map.
        encoding: Of the conditions, see :func:`encode`.
        residual: Whether the output is a change to independent weights :math:`\theta_0`. They are the bias of
            the last layer and start as the target would on its own; the rest starts so that the change
            is small: Kaiming normal with fan-out, each tensor's slice of the last layer by its own size.
            Without it the output has to be the weights themselves: hidden layers start as Kaiming normal with
            fan-in, and the last layer hyperfan-in (Chang et al., ICLR 2020), so that for activations of unit
            second moment a generated weight has the variance :math:`2/\text{fan-in}` of its own layer,
            and a generated bias is zero.
        layer_norm: LayerNorm before each activation.

    Shapes:
        - input: :math:`(*, d)`, of any floating type and on any device; output: :math:`(*, \text{shape})` by name.
    """

    def __init__(
        self,
        spec: Spec,
        in_features: int,
        widths: Sequence[int],
        *,
        encoding: Encoding = "none",
        residual: bool = False,
        layer_norm: bool = False,
    ) -> None:
        if encoding not in FACTOR:
            raise ValueError(f"method.encoding: there is no {encoding!r}; {nearest(str(encoding), FACTOR)}")
        if any(width < 1 for width in widths):
            raise ValueError(f"method.widths must be positive, got {list(widths)}")
        super().__init__()
        self.spec = spec
        self.encoding = encoding
        layers: list[nn.Module] = []
        size = FACTOR[encoding] * in_features
        for width in widths:
            linear = nn.Linear(size, width)
            nn.init.normal_(linear.weight, std=GAIN / math.sqrt(width if residual else size))
            nn.init.zeros_(linear.bias)
            layers += [linear, *([nn.LayerNorm(width)] if layer_norm else []), nn.LeakyReLU()]
            size = width
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(size, sum(shape.numel() for shape in spec.values()))
        with torch.no_grad():
            for rows, shape in zip(self._slices(self.head.weight), spec.values(), strict=True):
                rows.normal_(std=self._spread(shape, size, residual))
            self.head.bias.copy_(flatten(initial_weights(spec))) if residual else self.head.bias.zero_()

    def _slices(self, weight: Tensor) -> tuple[Tensor, ...]:
        return weight.split([shape.numel() for shape in self.spec.values()])

    @staticmethod
    def _spread(shape: torch.Size, width: int, residual: bool) -> float:
        """Initial standard deviation of the rows of the last layer that generate one tensor."""
        if residual:
            return GAIN / math.sqrt(shape.numel())
        return math.sqrt(2 / fan_in(shape) / width) if len(shape) > 1 else 0.0

    def forward(self, condition: Tensor) -> dict[str, Tensor]:
        encoded = encode(condition, self.encoding).to(self.head.weight)
        return unflatten(self.head(self.trunk(encoded)), self.spec)

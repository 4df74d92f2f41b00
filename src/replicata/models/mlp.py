"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from replicata.nn.activation import activation as make_activation


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        in_features: Size of an example; examples of any shape are flattened.
        out_features: Size of the output.
        widths: Hidden widths; empty: one linear map.
        activation: ``relu``, ``leaky_relu``, ``gelu``, ``silu`` or ``tanh``.
        norm: ``batch`` or ``layer`` normalisation before each activation; ``None``: none.
        dropout: Probability after each activation.
        bias: Whether the linear layers have biases.

    Shapes:
        - input: :math:`(B, *)` with :math:`F` entries an example; output: :math:`(B, C)`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        widths: Sequence[int] = (64,),
        activation: str = "relu",
        norm: Literal["batch", "layer"] | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        if any(width < 1 for width in (in_features, out_features, *widths)):
            raise ValueError(f"model: sizes must be positive, got {in_features}, {list(widths)}, {out_features}")
        if norm not in (None, "batch", "layer"):
            raise ValueError(f"model.norm must be batch, layer or null, got {norm!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        super().__init__()
        layers: list[nn.Module] = []
        size = in_features
        for width in widths:
            layers.append(nn.Linear(size, width, bias=bias))
            if norm is not None:
                layers.append(nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width))
            layers.append(make_activation(activation))
            if dropout:
                layers.append(nn.Dropout(dropout))
            size = width
        self.layers = nn.Sequential(*layers, nn.Linear(size, out_features, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))

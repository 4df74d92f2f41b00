r"""Linear layers and convolutions whose weight is a product :math:`U V^\top` of inner rank :math:`r`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.nn.surgery import replace

Layer = nn.Linear | nn.Conv2d
Init = Literal["svd", "default"]


class Factored(nn.Module):
    r"""A layer :math:`x \mapsto U V^\top x + \beta` that can be cut to its first components.

    The weight of a convolution is a matrix of :math:`c_o` rows and :math:`c_i k^2` columns: :math:`V^\top` is then a
    convolution without bias, with the stride, padding and dilation, and :math:`U` one of 1x1.

    Args:
        u: :math:`(m, r)`.
        v: :math:`V^\top`, :math:`(r, n)`.
        bias: Of the layer, :math:`(m)`.
        kernel: Of a convolution: :math:`(c_i, k, k)`.
        geometry: Of a convolution: ``stride``, ``padding`` and ``dilation``.

    Attributes:
        rank: Components that are left, the first ones; at rank 0 the output is the bias. It is saved and loaded with
            the weights, which keep their shape.
        sampled: Components that are used instead, as long as it is set.
    """

    bias: Tensor | None

    def __init__(
        self,
        u: Tensor,
        v: Tensor,
        bias: Tensor | None,
        kernel: tuple[int, ...] | None = None,
        geometry: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(u.detach().clone()), nn.Parameter(v.detach().clone())
        self.register_parameter("bias", cast(nn.Parameter | None, bias))
        self.kernel, self.geometry = kernel, dict(geometry or {})
        self.rank = len(v)
        self.sampled: int | None = None

    @classmethod
    def of(cls, layer: Layer, rank: int | None = None, init: Init = "svd") -> Factored:
        r"""A layer in factors, with the layer's own bias.

        Args:
            layer: A linear layer, or a convolution without groups.
            rank: Inner rank; ``None``: that of the full matrix.
            init: ``svd``: :math:`U = P \sqrt S` and :math:`V = Q \sqrt S` from :math:`W = P S Q^\top`, so that the
                first components are the best approximation; ``default``: each factor starts as a linear layer does.
        """
        weight = layer.weight.detach().flatten(1)
        rank = min(weight.shape) if rank is None else rank
        if init == "svd":
            p, s, qt = torch.linalg.svd(weight, full_matrices=False)
            u, v = (p * s.sqrt())[:, :rank], (s.sqrt()[:, None] * qt)[:rank]
        else:
            v, u = nn.Linear(weight.shape[1], rank).weight, nn.Linear(rank, len(weight)).weight
        if isinstance(layer, nn.Linear):
            return cls(u, v, layer.bias)
        if layer.groups != 1 or layer.padding_mode != "zeros":
            raise ValueError("model: only convolutions without groups and padded with zeros can be factored")
        geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation")}
        return cls(u, v, layer.bias, tuple(layer.weight.shape[1:]), geometry)

    def forward(self, x: Tensor) -> Tensor:
        rank = self.rank if self.sampled is None else self.sampled
        u, v = self.u[:, :rank], self.v[:rank]
        if self.kernel is None:
            return F.linear(F.linear(x, v), u, self.bias)
        if self.size(rank) < u.numel() + v.numel():  # at many places one product of the factors is cheaper than both
            return F.conv2d(x, (u @ v).unflatten(1, self.kernel), self.bias, **self.geometry)
        if rank == 0:  # a convolution to no channels is refused: zeros at the places of one, plus the bias
            places = F.conv2d(x[:, :1], x.new_zeros(1, 1, *self.kernel[1:]), **self.geometry)
            return F.conv2d(places, x.new_zeros(len(u), 1, 1, 1), self.bias)
        return F.conv2d(F.conv2d(x, v.unflatten(1, self.kernel), **self.geometry), u[:, :, None, None], self.bias)

    def norms(self) -> tuple[Tensor, Tensor]:
        """Norms of the columns of both factors, of the components that are left: each :math:`(r)`."""
        return self.u[:, : self.rank].norm(dim=0), self.v[: self.rank].norm(dim=1)

    def tails(self) -> tuple[Tensor, Tensor]:
        """Norms of both factors from each component that is left to the last one: each :math:`(r)`."""
        return tails(self.u[:, : self.rank].square().sum(0)), tails(self.v[: self.rank].square().sum(1))

    def importance(self) -> Tensor:
        """Product of the tails: what is lost by a cut before each component, so it does not increase: :math:`(r)`."""
        u, v = self.tails()
        return u * v

    def size(self, rank: int) -> int:
        """Entries of the weight as deployed at a rank: the product has :math:`m n`, the factors :math:`r (m + n)`."""
        m, n = len(self.u), self.v.shape[1]
        return min(rank * (m + n), m * n)

    def deployed(self, rank: int) -> nn.Module:
        """A layer of the first components and nothing else: multiplied out iff that has fewer entries."""
        u, v = self.u[:, :rank].detach(), self.v[:rank].detach()
        m, n = len(u), v.shape[1]
        if m * n >= rank * (m + n):
            return Factored(u, v, self.bias, self.kernel, self.geometry)
        given: dict[str, Any] = {"bias": self.bias is not None, "device": u.device, "dtype": u.dtype}
        dense: Layer
        if self.kernel is None:
            dense = nn.utils.skip_init(nn.Linear, n, m, **given)
        else:
            dense = nn.utils.skip_init(nn.Conv2d, self.kernel[0], m, self.kernel[1:], **self.geometry, **given)
        dense.weight = nn.Parameter((u @ v).view_as(dense.weight))
        dense.bias = cast(nn.Parameter, self.bias)  # the same, or none
        return dense

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.rank)

    def set_extra_state(self, state: Tensor) -> None:
        self.rank = int(state)


def tails(squares: Tensor) -> Tensor:
    """Roots of the sums of squares :math:`(r)` from each place to the end; their gradient is finite at zero."""
    sums = squares.flip(0).cumsum(0).flip(0)
    return sums.clamp_min(torch.finfo(sums.dtype).tiny).sqrt()


def layers_of(model: nn.Module) -> list[Factored]:
    """The factored layers of a model, in its order."""
    return [layer for layer in model.modules() if isinstance(layer, Factored)]


def factorise(model: nn.Module, init: Init = "svd") -> nn.Module:
    """Replace every linear layer and convolution of a model by a factored one, in place."""
    return replace(model, lambda _, layer: Factored.of(layer, init=init) if isinstance(layer, Layer) else None)


def deploy(model: nn.Module, ranks: Sequence[int]) -> nn.Module:
    """A copy of a model whose factored layers have the given ranks, each in its smaller form."""
    left = iter(ranks)
    return replace(
        copy.deepcopy(model), lambda _, layer: layer.deployed(next(left)) if isinstance(layer, Factored) else None
    )

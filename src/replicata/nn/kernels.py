r"""Kernels of infinitely wide networks, on Gram matrices.

For inputs of unit length a wide network sees two inputs only through their inner product :math:`s`.
A layer with activation :math:`\phi` acts on it by the dual activation

.. math::
    \check\phi(s) = \mathbb{E}[\phi(u)\,\phi(v)], \qquad u, v \sim N(0, 1),\ \mathrm{corr}(u, v) = s    \quad (1)

and :math:`L` layers give the two kernels of :func:`nngp_ntk` (Neal 1996; Jacot et al. 2018; Daniely et al. 2016).
With the normalised Hermite expansion :math:`\phi = \sum_i a_i h_i` the dual is the power series
:math:`\check\phi(s) = \sum_i a_i^2 s^i` (2).

Depth drives kernels far below the smallest float64 number. Everything is therefore also available in the
logarithmic domain, where only sums need care.

All functions are elementwise over tensors of any shape and keep their dtype; float64 is meant. Where a
function takes ``log_gram``, zeros of the Gram matrix are :math:`-\infty`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
BLOCK = 2**15  # elements worked on at a time, so that the temporaries of all layers stay in the processor's cache

# Hermite polynomials and Gaussian moments ---------------------------------------------------


def hermite(x: Tensor, degree: int) -> Tensor:
    r"""Normalised probabilists' Hermite polynomials, :math:`\mathbb{E}[h_i(z) h_j(z)] = [i = j]`.

    Args:
        x: Points :math:`(*)`.
        degree: Highest degree :math:`n`.

    Returns:
        :math:`h_0(x), \dots, h_n(x)`, shape :math:`(n + 1, *)`.
    """
    rows = [torch.ones_like(x), x]
    for i in range(1, degree):
        rows.append((x * rows[i] - math.sqrt(i) * rows[i - 1]) / math.sqrt(i + 1))
    return torch.stack(rows[: degree + 1])


class HermiteActivation(nn.Module):
    r"""The activation :math:`\phi(x) = \sum_i a_i h_i(x)`, elementwise.

    Args:
        coefficients: :math:`a_0, a_1, \dots`
    """

    def __init__(self, coefficients: Sequence[float]) -> None:
        super().__init__()
        self.coefficients = tuple(map(float, coefficients))

    def forward(self, x: Tensor) -> Tensor:
        before, current = torch.ones_like(x), x
        out = self.coefficients[0] * before
        for i, a in enumerate(self.coefficients[1:], start=1):
            if a:
                out = out + a * current
            before, current = current, (x * current - math.sqrt(i) * before) / math.sqrt(i + 1)
        return out


def gauss_hermite(nodes: int) -> tuple[Tensor, Tensor]:
    r"""Points and weights, :math:`(n)` each: :math:`\mathbb{E} f(z) = \sum_k w_k f(z_k)`, exact to degree 2n - 1."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(points), torch.from_numpy(weights / math.sqrt(2 * math.pi))


class Moments(NamedTuple):
    r"""Gaussian moments of an activation: what decides how its kernel behaves at great depth."""

    mean: float  # A = E phi(z)
    slope: float  # A' = E phi'(z)
    slope_square: float  # B' = E phi'(z)^2
    square: float  # B = E phi(z)^2


def moments(activation: Activation, nodes: int = 100) -> Moments:
    """The moments by quadrature; exact for polynomials of degree below ``nodes``."""
    z, weights = gauss_hermite(nodes)
    with torch.enable_grad():
        z.requires_grad_(True)
        values = activation(z)
        (slopes,) = torch.autograd.grad(values.sum(), z)
    values = values.detach()
    mean, slope, slope_square, square = (float(weights @ f) for f in (values, slopes, slopes**2, values**2))
    return Moments(mean, slope, slope_square, square)


def hermite_coefficients(activation: Activation, degree: int, nodes: int = 100) -> Tensor:
    r"""Coefficients :math:`a_i = \mathbb{E}[\phi(z) h_i(z)]`, shape :math:`(n + 1)`."""
    z, weights = gauss_hermite(nodes)
    return hermite(z, degree) @ (weights * activation(z))


def dual_by_quadrature(activation: Activation, s: Tensor, nodes: int = 100) -> Tensor:
    """Eq. (1) for each correlation in ``s`` :math:`(*)`, from its definition: slow, for checks."""
    z, weights = gauss_hermite(nodes)
    u, orthogonal = z[:, None], z[None, :]
    correlation = s.to(z.dtype)[..., None, None]
    v = correlation * u + (1 - correlation**2).clamp_min(0).sqrt() * orthogonal
    return torch.einsum("i,j,...ij->...", weights, weights, activation(u) * activation(v)).to(s.dtype)


# Dual activations ---------------------------------------------------------------------------


class Dual(ABC):
    r"""A dual activation :math:`\check\phi` and its derivative, which is the dual of :math:`\phi'`."""

    @abstractmethod
    def value(self, s: Tensor) -> Tensor:
        r""":math:`\check\phi(s)`."""

    @abstractmethod
    def slope(self, s: Tensor) -> Tensor:
        r""":math:`\check\phi'(s)`."""

    def log_value(self, log_s: Tensor) -> Tensor:
        r""":math:`\log \check\phi(e^t)`."""
        return self.value(log_s.exp()).log()

    def log_both(self, log_s: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log \check\phi(e^t)` and :math:`\log \check\phi'(e^t)`."""
        s = log_s.exp()
        return self.value(s).log(), self.slope(s).log()


class PolynomialDual(Dual):
    r"""Eq. (2) for an activation with finitely many Hermite coefficients.

    Args:
        powers: :math:`c_i = a_i^2 \ge 0`, the coefficients of :math:`s^i`.

    Raises:
        ValueError: if a coefficient is negative, or there is none above the constant.
    """

    def __init__(self, powers: Sequence[float]) -> None:
        self.powers = tuple(map(float, powers))
        if min(self.powers) < 0 or not any(self.powers[1:]):
            raise ValueError(f"a dual activation has coefficients >= 0, not all zero above the constant: {self.powers}")
        self._slopes = tuple(i * c for i, c in enumerate(self.powers))[1:]
        self._value, self._slope = _LogPolynomial(self.powers), _LogPolynomial(self._slopes)
        self.log_total = self._value.log_total
        self.slope_at_one = math.fsum(self._slopes)

    @classmethod
    def of(cls, coefficients: Sequence[float]) -> PolynomialDual:
        r"""The dual of :math:`\sum_i a_i h_i`."""
        return cls([a * a for a in coefficients])

    def value(self, s: Tensor) -> Tensor:
        return _horner(self.powers, s)

    def slope(self, s: Tensor) -> Tensor:
        return _horner(self._slopes, s)

    def log_value(self, log_s: Tensor) -> Tensor:
        return self._value(log_s, torch.expm1(log_s))

    def log_both(self, log_s: Tensor) -> tuple[Tensor, Tensor]:
        shifted = torch.expm1(log_s)
        return self._value(log_s, shifted), self._slope(log_s, shifted)


class ArcCosineDual(Dual):
    r"""ReLU, scaled to :math:`\mathbb{E}\phi(z)^2 = 1`: the arc-cosine kernels of degree 1 and 0 (Cho and Saul 2009).

    .. math::
        \check\phi(s) = \bigl(\sqrt{1 - s^2} + s(\pi - \theta)\bigr) / \pi, \qquad
        \check\phi'(s) = (\pi - \theta) / \pi, \qquad \theta = \arccos s
    """

    def value(self, s: Tensor) -> Tensor:
        return self._value(s.clamp(-1, 1), self.slope(s))

    def slope(self, s: Tensor) -> Tensor:
        return 1 - s.clamp(-1, 1).acos() / math.pi

    def log_both(self, log_s: Tensor) -> tuple[Tensor, Tensor]:
        s = log_s.exp()
        slope = self.slope(s)
        return self._value(s, slope).log(), slope.log()

    @staticmethod
    def _value(s: Tensor, slope: Tensor) -> Tensor:
        return (1 - s * s).sqrt() / math.pi + s * slope


class _LogPolynomial:
    r""":math:`t \mapsto \log \sum_i c_i e^{i t}` without underflow, and exact where the sum is near its value at 0.

    The lowest power comes out as a linear term. What is left is written in :math:`e = e^t - 1`, in which its
    distance from the value at :math:`t = 0` has no constant term and loses no digits.
    """

    def __init__(self, powers: Sequence[float]) -> None:
        self.lowest = next(i for i, c in enumerate(powers) if c)
        deflated = powers[self.lowest :]
        total = math.fsum(deflated)
        # A sum that is 1 up to rounding is 1: else the diagonal would leave log 1 = 0 by 1e-16, and by B' times more
        # with every layer.
        self.log_total = 0.0 if abs(total - 1) < 1e-12 else math.log(total)
        self.distance = [0.0] + [
            math.fsum(math.comb(i, j) * c for i, c in enumerate(deflated)) / total for j in range(1, len(deflated))
        ]

    def __call__(self, t: Tensor, e: Tensor) -> Tensor:
        out = _horner(self.distance, e).log1p() if len(self.distance) > 1 else torch.zeros_like(t)
        if self.log_total:
            out = out + self.log_total
        return out + self.lowest * t if self.lowest else out  # without the term: 0 times minus infinity is no number


def _horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    out = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = out * x + c if c else out * x
    return out


# Recursions over layers ---------------------------------------------------------------------


def nngp_ntk(s: Tensor, k: Tensor, dual: Dual, layers: int) -> tuple[Tensor, Tensor]:
    r"""Take both kernels through further layers.

    .. math::
        S_l = \check\phi(S_{l-1}), \qquad K_l = K_{l-1}\,\check\phi'(S_{l-1}) + S_l, \qquad S_0 = K_0 = s

    Args:
        s, k: :math:`S_l` and :math:`K_l`; both are the Gram matrix of unit vectors at :math:`l = 0`.
        dual: Of the activation, with :math:`\check\phi(1) = 1`.
        layers: How many.

    Returns:
        :math:`S_{l + layers}` (the Gaussian-process kernel) and :math:`K_{l + layers}` (the tangent kernel).
    """
    for _ in range(layers):
        above = dual.value(s)
        s, k = above, k * dual.slope(s) + above
    return s, k


def log_nngp_ntk(log_s: Tensor, log_k: Tensor, dual: Dual, layers: int) -> tuple[Tensor, Tensor]:
    r""":func:`nngp_ntk` on logarithms, in blocks of rows.

    For a :class:`PolynomialDual` with :math:`c_0 = 0 < c_1` millions of layers cost no more than about a hundred: see
    :func:`_linear_layers`.
    """
    done: list[tuple[Tensor, Tensor]] = []
    for a, b in zip(_blocks(log_s), _blocks(log_k), strict=True):
        t, u = a, b
        for layer in range(layers):
            left = layers - layer
            if layer % 8 == 0 and left > 8 and isinstance(dual, PolynomialDual) and _is_linear(t, dual):
                t, u = _linear_layers(t, u, dual, left)
                break
            above, log_slope = dual.log_both(t)
            t, u = above, torch.logaddexp(u + log_slope, above)
        done.append((t, u))
    first, second = zip(*done, strict=True)
    return torch.cat(first), torch.cat(second)


def _is_linear(log_s: Tensor, dual: PolynomialDual) -> bool:
    """Whether each correlation is exactly 1, or so small that the dual is its linear term to the last digit."""
    if dual.powers[0] or not 0 < dual.powers[1] < 1 or dual.log_total:
        return False
    return not _beyond_linear(dual.powers, float(log_s.masked_fill(log_s == 0, -torch.inf).max()))


def _linear_layers(t: Tensor, u: Tensor, dual: PolynomialDual, layers: int) -> tuple[Tensor, Tensor]:
    r"""Layers in closed form: :math:`S_{l+m} = c_1^m S_l` and :math:`K_{l+m} = c_1^m (K_l + m S_l)`.

    On the diagonal :math:`S = 1`, and :math:`K_{l+m} = B^m K_l + (B^m - 1)/(B - 1)` with :math:`B = \sum i c_i`.
    """
    decay = layers * math.log(dual.powers[1])
    growth = math.log(dual.slope_at_one)
    grown = layers * growth + torch.logaddexp(
        u, u.new_tensor(math.log(-math.expm1(-layers * growth) / (dual.slope_at_one - 1)))
    )
    below = decay + torch.logaddexp(u, t + math.log(layers))
    diagonal = t == 0
    return torch.where(diagonal, t, t + decay), torch.where(diagonal, grown, below)


def log_koenigs(log_s: Tensor, dual: PolynomialDual) -> Tensor:
    r"""The Koenigs function of the dual at its attracting fixed point 0.

    .. math::
        \psi(s) = \lim_{l \to \infty} \check\phi^{\circ l}(s) / c_1^l

    It is also :math:`\lim_L K_L / (L\, c_1^L)` of :func:`nngp_ntk`. Correlations closer to 1 than
    float64 tells apart are treated as :math:`1 - 2^{-53}`, where :math:`\psi` is large but finite.

    Args:
        log_s: :math:`\log s \le 0`, shape :math:`(N, *)`.
        dual: With :math:`c_0 = 0 < c_1 < 1` and :math:`\check\phi(1) = 1`.

    Returns:
        :math:`\log \psi(s)`.

    Raises:
        ValueError: if 0 is not an attracting fixed point of the dual with a slope, or 1 no fixed point.
    """
    powers = dual.powers
    if powers[0] or not 0 < powers[1] < 1 or abs(math.fsum(powers) - 1) > 1e-9:
        raise ValueError(f"the limit needs c_0 = 0 < c_1 < 1 and a sum of 1, got the dual coefficients {powers}")
    done = []
    for block in _blocks(log_s.clamp_max(-(2.0**-53))):
        t, layers = block, 0
        # Once s is so small that the powers above the first add nothing, a layer multiplies by c_1.
        while block.numel() and _beyond_linear(powers, float(t.max())):
            t = dual.log_value(t)
            layers += 1
        done.append(t - layers * math.log(powers[1]))
    return torch.cat(done)


def _beyond_linear(powers: Sequence[float], log_s: float) -> bool:
    """Whether the powers above the first matter to the dual or its slope, for correlations up to the given one."""
    return sum(i * c * math.exp((i - 1) * log_s) for i, c in enumerate(powers) if i > 1) > 2.0**-54 * powers[1]


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Cut along the first axis into parts of about ``BLOCK`` elements."""
    return x.split(max(1, BLOCK // max(1, x[0].numel()))) if len(x) else (x,)


# Finite networks ----------------------------------------------------------------------------


def empirical_ntk(network: nn.Module, x: Tensor) -> Tensor:
    r"""The tangent kernel of a network at its present weights, :math:`\langle \nabla f(x_i), \nabla f(x_j) \rangle`.

    Args:
        network: ``network(x)`` gives one number per row, :math:`(N)` or :math:`(N, 1)`.
        x: Inputs :math:`(N, *)`; the memory is :math:`N` times that of the parameters.

    Returns:
        Gram matrix :math:`(N, N)`.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(network(one).sum(), parameters) for one in x.split(1)]
    gram = x.new_zeros(len(rows), len(rows))
    for i, first in enumerate(rows):
        for j, second in enumerate(rows[: i + 1]):
            gram[i, j] = gram[j, i] = sum(
                torch.dot(a.flatten(), b.flatten()) for a, b in zip(first, second, strict=True)
            )
    return gram

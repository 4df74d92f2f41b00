"""Kernels of wide networks: identities between their forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.models.ntk_mlp import NTKMLP
from replicata.nn.kernels import (
    ArcCosineDual,
    HermiteActivation,
    PolynomialDual,
    dual_by_quadrature,
    empirical_ntk,
    gauss_hermite,
    hermite,
    hermite_coefficients,
    log_koenigs,
    log_nngp_ntk,
    moments,
    nngp_ntk,
)

S = torch.tensor([1e-9, 1e-3, 0.1, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9, 1.0], dtype=torch.float64)
# Squares of Hermite coefficients with sum 1: c_0 and c_1 zero or not.
powers = st.lists(st.floats(0.05, 1.0), min_size=2, max_size=6).flatmap(
    lambda c: st.tuples(st.booleans(), st.booleans()).map(
        lambda keep: [c_i * k for c_i, k in zip(c, [*keep, *[True] * 6], strict=False)]
    )
)


def normalised(c: list[float]) -> PolynomialDual:
    if not any(c[1:]):
        c = [*c, 1.0]
    return PolynomialDual([c_i / math.fsum(c) for c_i in c])


def test_hermite_polynomials_are_orthonormal() -> None:
    z, weights = gauss_hermite(40)
    h = hermite(z, 9)
    torch.testing.assert_close((h * weights) @ h.T, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-10)


def test_hermite_activation_has_its_coefficients() -> None:
    coefficients = [0.3, -0.2, 0.0, 0.5, 0.1]
    found = hermite_coefficients(HermiteActivation(coefficients), 6)
    expected = torch.tensor([*coefficients, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_moments_of_a_smooth_activation() -> None:
    found = moments(torch.sin)  # closed forms of E sin, E cos, E cos^2, E sin^2
    assert found == pytest.approx((0.0, math.exp(-0.5), (1 + math.exp(-2)) / 2, (1 - math.exp(-2)) / 2), abs=1e-9)


@given(powers)
@settings(deadline=None, max_examples=15)
def test_dual_at_its_ends_gives_the_moments(c: list[float]) -> None:
    dual = normalised(c)
    found = moments(HermiteActivation([math.sqrt(c_i) for c_i in dual.powers]))
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert float(dual.value(zero)) == pytest.approx(found.mean**2, abs=1e-9)
    assert float(dual.slope(zero)) == pytest.approx(found.slope**2, abs=1e-9)
    assert float(dual.slope(one)) == pytest.approx(found.slope_square, rel=1e-9)
    assert float(dual.value(one)) == pytest.approx(1.0, rel=1e-12)


@given(powers, st.integers(0, 8))
@settings(deadline=None, max_examples=40)
def test_log_domain_equals_the_plain_recursion(c: list[float], layers: int) -> None:
    dual = normalised(c)
    plain = nngp_ntk(S, S, dual, layers)
    logs = log_nngp_ntk(S.log(), S.log(), dual, layers)
    for expected, found in zip(plain, logs, strict=True):
        tiny = expected < 1e-280  # where the plain one begins to underflow
        torch.testing.assert_close(found.exp()[~tiny], expected[~tiny], rtol=1e-10, atol=0)


@given(powers, st.integers(0, 30))
@settings(deadline=None, max_examples=40)
def test_diagonal_is_a_geometric_sum(c: list[float], layers: int) -> None:
    dual = normalised(c)
    zero = torch.zeros(1, dtype=torch.float64)
    log_s, log_k = log_nngp_ntk(zero, zero, dual, layers)
    assert float(log_s) == 0
    assert float(log_k) == pytest.approx(
        math.log(math.fsum(dual.slope_at_one**i for i in range(layers + 1))), rel=1e-12
    )


def test_arc_cosine_kernels_are_those_of_relu() -> None:
    dual = ArcCosineDual()
    s = torch.tensor([-0.5, 0.0, 0.3, 0.9], dtype=torch.float64)
    relu = dual_by_quadrature(lambda u: math.sqrt(2) * torch.relu(u), s, nodes=200)
    step = dual_by_quadrature(lambda u: math.sqrt(2) * (u > 0).double(), s, nodes=200)
    torch.testing.assert_close(dual.value(s), relu, rtol=0, atol=5e-3)  # a kink is hard on the quadrature
    torch.testing.assert_close(dual.slope(s), step, rtol=0, atol=2e-2)
    below, above = dual.value(s - 1e-6), dual.value(s + 1e-6)
    torch.testing.assert_close((above - below) / 2e-6, dual.slope(s), rtol=1e-8, atol=1e-8)
    for expected, found in zip(nngp_ntk(S, S, dual, 8), log_nngp_ntk(S.log(), S.log(), dual, 8), strict=True):
        torch.testing.assert_close(found.exp(), expected, rtol=1e-10, atol=0)


def test_recursion_can_be_cut_anywhere() -> None:
    dual = PolynomialDual([0.25, 0.25, 0.5])
    whole = log_nngp_ntk(S.log(), S.log(), dual, 9)
    parts = log_nngp_ntk(*log_nngp_ntk(S.log(), S.log(), dual, 4), dual, 5)
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


def test_linear_layers_in_closed_form_equal_layers_one_by_one() -> None:
    dual = PolynomialDual([0.0, 0.25, 0.5, 0.25])
    s = torch.tensor([1e-3, 0.2, 0.7, 1.0], dtype=torch.float64).log()  # all small after some layers, but the diagonal
    found = log_nngp_ntk(s, s, dual, 400)
    t, u = s, s
    for _ in range(400):
        t, u = log_nngp_ntk(t, u, dual, 1)
    torch.testing.assert_close(found[0], t, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], u, rtol=1e-12, atol=0)


@given(st.floats(1e-6, 0.999999), st.floats(0.1, 0.9), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_koenigs_function_solves_its_equation(s: float, first: float, gap: int) -> None:
    dual = PolynomialDual([0.0, first, *[0.0] * gap, 1 - first])
    log_s = torch.tensor([s], dtype=torch.float64).log()
    once = log_koenigs(dual.log_value(log_s), dual)  # psi(phi(s)) = c_1 psi(s)
    assert float(once) == pytest.approx(float(log_koenigs(log_s, dual)) + math.log(first), abs=1e-9)
    tiny = torch.tensor([-60.0], dtype=torch.float64)
    assert float(log_koenigs(tiny, dual)) == pytest.approx(-60.0, abs=1e-9)  # psi'(0) = 1


def test_koenigs_function_at_the_ends() -> None:
    dual = PolynomialDual([0.0, 0.5, 0.0, 0.5])
    found = log_koenigs(torch.tensor([-torch.inf, 0.0], dtype=torch.float64), dual)
    assert found[0] == -torch.inf
    assert torch.isfinite(found[1])
    with pytest.raises(ValueError, match="c_0 = 0"):
        log_koenigs(S.log(), PolynomialDual([0.25, 0.25, 0.5]))


def test_zeros_of_the_gram_matrix_stay_numbers() -> None:
    zero = torch.tensor([-torch.inf], dtype=torch.float64)
    for c, below in (([0.0, 0.5, 0.5], True), ([0.0, 0.0, 1.0], True), ([0.25, 0.25, 0.5], False)):
        log_s, log_k = log_nngp_ntk(zero, zero, PolynomialDual(c), 12)
        assert bool((log_k == -torch.inf).all()) is below
        assert bool((log_s == -torch.inf).all()) is below


def test_empirical_kernel_of_a_linear_network() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    gram = empirical_ntk(torch.nn.Linear(3, 1), x)
    torch.testing.assert_close(gram, x @ x.T + 1)


def test_wide_relu_network_has_the_kernel_of_infinite_width(streams) -> None:
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    x = x / x.norm(dim=1, keepdim=True)

    class Relu(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return math.sqrt(2) * torch.relu(z)

    with streams.init.as_global():
        found = torch.stack([empirical_ntk(NTKMLP(3, 1024, 2, Relu()), x) for _ in range(8)]).mean(0)
    s = x @ x.T
    expected = nngp_ntk(s, s, ArcCosineDual(), 2)[1]
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_sixty_layers_against_arithmetic_of_eighty_digits() -> None:
    from decimal import Decimal, localcontext

    dual = PolynomialDual([0.0, 0.5, 0.0, 0.5])
    gaps = ["1e-12", "1e-6", "1e-3", "0.1", "0.7"]
    log_s = torch.tensor([math.log1p(-float(gap)) for gap in gaps], dtype=torch.float64)
    found = log_nngp_ntk(log_s, log_s, dual, 60)
    with localcontext() as context:
        context.prec = 80
        half = Decimal("0.5")
        for at, gap in enumerate(gaps):
            s = k = 1 - Decimal(gap)
            for _ in range(60):
                s, k = half * s * (1 + s * s), k * half * (1 + 3 * s * s) + half * s * (1 + s * s)
            assert float(found[0][at]) == pytest.approx(float(s.ln()), rel=1e-12, abs=1e-10)
            assert float(found[1][at]) == pytest.approx(float(k.ln()), rel=1e-12, abs=1e-10)

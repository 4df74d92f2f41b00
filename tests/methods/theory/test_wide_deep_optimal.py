"""Fidelity checks of wide and deep networks: what only the right method satisfies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.data.synthetic.sphere import Sphere
from replicata.data.tabular.sklearn import SklearnTable
from replicata.errors import UserError
from replicata.methods.theory.wide_deep_optimal import (
    FiniteWidth,
    WideDeep,
    dual_of,
    limit_case,
    singular_coefficients,
    vote,
)
from replicata.models.ntk_mlp import NTKMLP
from replicata.nn.kernels import (
    ArcCosineDual,
    HermiteActivation,
    PolynomialDual,
    dual_by_quadrature,
    empirical_ntk,
    log_koenigs,
    log_nngp_ntk,
    moments,
    nngp_ntk,
)

DOUBLE = torch.float64


def sphere(n: int, dim: int = 2, seed: int = 0) -> torch.Tensor:
    z = torch.randn(n, dim + 1, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).abs()
    return z / z.norm(dim=1, keepdim=True)


def data(**changes: Any) -> Sphere:
    return Sphere(root="", cache="", **({"n_train": 60, "n_val": 5, "n_test": 200} | changes))  # type: ignore[arg-type]


# 1. The activations -------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 5, 10])
def test_moments_of_phi_d(d: int) -> None:
    found = moments(HermiteActivation(singular_coefficients(float(d))))
    slope_square = 4.0 if d == 1 else 2.0
    assert found.mean == pytest.approx(0, abs=1e-10)
    assert found.slope == pytest.approx(2**-0.5 if d == 1 else 2 ** (-d / 4), abs=1e-10)
    assert found.slope_square == pytest.approx(slope_square, rel=1e-9)
    assert found.square == pytest.approx(1, rel=1e-10)
    assert -4 * math.log(found.slope) / math.log(found.slope_square) == pytest.approx(d, rel=1e-8)


@given(st.floats(0.2, 40))
@settings(deadline=None, max_examples=25)
def test_any_exponent_is_reached(alpha: float) -> None:
    found = moments(HermiteActivation(singular_coefficients(alpha)), nodes=60)
    assert found.mean == pytest.approx(0, abs=1e-8)
    assert found.square == pytest.approx(1, rel=1e-6)
    assert -4 * math.log(found.slope) / math.log(found.slope_square) == pytest.approx(alpha, rel=1e-5)


# 2. The dual --------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_dual_of_phi_d_equals_the_quadrature(d: int) -> None:
    s = torch.tensor([0.0, 0.3, 0.9], dtype=DOUBLE)
    expected = dual_by_quadrature(HermiteActivation(singular_coefficients(float(d))), s, nodes=40)
    torch.testing.assert_close(dual_of("singular", float(d)).value(s), expected, rtol=0, atol=1e-10)
    if d > 1:  # the card's closed form of Eq. (7)
        first = 2 ** (-d / 2)
        torch.testing.assert_close(expected, first * (s + s**3) + (1 - 2 * first) * s**2, rtol=0, atol=1e-10)


def test_the_other_activations_are_what_they_are_called() -> None:
    s = torch.tensor([0.0, 0.3, 0.9], dtype=DOUBLE)
    for name, coefficients in (("square", [0, 0, 1]), ("offset", [0.5, 0.5, 0.5**0.5])):
        expected = dual_by_quadrature(HermiteActivation(coefficients), s, nodes=40)
        torch.testing.assert_close(dual_of(name, 2.0).value(s), expected, rtol=0, atol=1e-10)


# 3. The diagonal ----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["singular", "square", "offset", "relu"])
@pytest.mark.parametrize("depth", [1, 7, 60])
def test_diagonal_is_the_sum_of_powers(activation: str, depth: int) -> None:
    dual = dual_of(activation, 2.0)
    one = torch.ones(1, dtype=DOUBLE)
    slope = float(dual.slope(one))
    expected = math.log(math.fsum(slope**i for i in range(depth + 1)))
    assert float(log_nngp_ntk(one.log(), one.log(), dual, depth)[1]) == pytest.approx(expected, rel=1e-12)


# 4. ReLU ------------------------------------------------------------------------------------


def test_relu_is_the_arc_cosine_kernel_and_off_diagonals_tend_to_a_quarter() -> None:
    dual = dual_of("relu", 2.0)
    s = torch.tensor([0.0, 0.3, 0.9], dtype=DOUBLE)
    theta = s.acos()
    torch.testing.assert_close(dual.value(s), (theta.sin() + (math.pi - theta) * theta.cos()) / math.pi)
    torch.testing.assert_close(dual.slope(s), (math.pi - theta) / math.pi)
    ratios = [nngp_ntk(s, s, dual, depth)[1] / (depth + 1) for depth in (10, 100, 1000, 10000)]
    distance = torch.stack([(ratio - 0.25).abs().max() for ratio in ratios])
    assert bool((distance.diff() < 0).all())
    assert float(distance[-1]) < 2e-3


# 5. The exponent of the limit kernel --------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
def test_slope_of_the_limit_kernel_is_minus_alpha(alpha: float) -> None:
    distance = torch.logspace(-4, -2, 30, dtype=DOUBLE)
    log_psi = log_koenigs(torch.log1p(-(distance**2) / 2), PolynomialDual.of(singular_coefficients(alpha)))
    slope = np.polyfit(distance.log().numpy(), log_psi.numpy(), 1)[0]
    assert slope == pytest.approx(-alpha, rel=0.05)
    ratio = log_psi + alpha * distance.log()  # R is bounded
    assert float(ratio.max() - ratio.min()) < 0.7


# 6. The log domain --------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["singular", "square", "offset", "relu"])
@pytest.mark.parametrize("depth", range(9))
def test_log_domain_equals_the_plain_recursion(activation: str, depth: int) -> None:
    x = sphere(30)
    s = (x @ x.T).clamp(0, 1).fill_diagonal_(1)
    dual = dual_of(activation, 3.0)
    plain, logs = nngp_ntk(s, s, dual, depth), log_nngp_ntk(s.log(), s.log(), dual, depth)
    normal = plain[1] > 1e-280
    torch.testing.assert_close(logs[1].exp()[normal], plain[1][normal], rtol=1e-10, atol=0)


# 7. The nearest neighbour -------------------------------------------------------------------


def test_deep_kernel_without_linear_part_peaks_at_the_nearest_neighbour() -> None:
    train, test = sphere(400), sphere(2000, seed=1)
    log_s = (test @ train.T).clamp(0, 1).log()
    log_k = log_nngp_ntk(log_s, log_s, dual_of("square", 2.0), 60)[1]
    nearest = torch.cdist(test, train).argmin(1)
    assert torch.equal(log_k.argmax(1), nearest)
    signs = torch.randn(400, 2, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    assert torch.equal(vote(log_k, signs), signs[nearest].argmax(1))


# 8. Finite width ----------------------------------------------------------------------------


def finite_kernels(
    x: torch.Tensor, first: torch.Tensor, second: torch.Tensor, out: torch.Tensor, phi: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Tangent kernels :math:`(D, N, N)` of networks with first layers :math:`(D, m, F)`, summed layer by layer."""
    scale = len(out) ** -0.5
    z_1 = torch.einsum("nf,dmf->dnm", x, first).requires_grad_(True)
    h_1 = phi(z_1)
    z_2 = scale * h_1 @ second.T
    h_2 = phi(z_2)
    d_1, d_2 = torch.autograd.grad((scale * h_2 @ out).sum(), (z_1, z_2))

    def gram(a: torch.Tensor) -> torch.Tensor:
        return (a @ a.mT).detach()

    return (x @ x.T) * gram(d_1) + scale**2 * gram(h_1) * gram(d_2) + scale**2 * gram(h_2)


def test_tangent_kernel_of_finite_networks_averages_to_the_infinite_one() -> None:
    """One network of width 4096 is off by 7 to 40 %: the tails of the activation are heavy. The mean of many is not.

    Most of the spread comes from the first layer, so 16 of them share each second one.
    """
    coefficients = singular_coefficients(8.0)
    phi, generator = HermiteActivation(coefficients), torch.Generator().manual_seed(0)
    x = sphere(3, dim=8).float()
    found = []
    for _ in range(4):
        layers = (torch.randn(*shape, generator=generator) for shape in ((16, 4096, 9), (4096, 4096), (4096,)))
        found.append(finite_kernels(x, *layers, phi).double())
    s = (x.double() @ x.double().T).fill_diagonal_(1)
    expected = nngp_ntk(s, s, PolynomialDual.of(coefficients), 2)[1]
    assert float((torch.cat(found).mean(0) - expected).norm() / expected.norm()) < 0.05

    network = NTKMLP(9, 30, 2, phi)  # and the layers' sum is the kernel of the network itself
    first, second = network.hidden
    torch.testing.assert_close(
        finite_kernels(x, first[None].detach(), second.detach(), network.out.detach(), phi)[0],
        empirical_ntk(network, x),
        rtol=1e-4,
        atol=1e-4,
    )


def test_finite_network_learns(fit: Callable[..., Any], streams: Any) -> None:
    from functools import partial

    with streams.init.as_global():
        network = NTKMLP(3, 256, 3, HermiteActivation(singular_coefficients(2.0)))
    method = FiniteWidth(model=network, optimizer=partial(torch.optim.SGD, lr=0.01))
    metrics = fit(method, data(n_train=1000, n_val=500, flip=0.05), max_epochs=8).callback_metrics
    assert float(metrics["val/error"]) < 0.35
    assert float(metrics["val/excess"]) == pytest.approx(float(metrics["val/error"]) - 0.05, abs=0.03)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    loss = method.objective({"x": x, "y": y}, torch.tensor([-1.0, 1.0, 0.0, 0.0]))
    assert float(loss) == pytest.approx(0.5)  # targets -1, 1, 1, -1


# 9. The solve, and the reference ------------------------------------------------------------


def test_regression_equals_scikit_learn(fit: Callable[..., Any]) -> None:
    from sklearn.kernel_ridge import KernelRidge

    method = WideDeep(2, 2, depths=[3])
    fit(method, data(n_train=40))
    log_k, weights = method.tangent_regression(3)
    s = (method.train_x @ method.train_x.T).clamp(0, 1).fill_diagonal_(1)
    across = (method.test_x @ method.train_x.T).clamp(0, 1)
    k, k_across = nngp_ntk(s, s, method.dual, 3)[1], nngp_ntk(across, across, method.dual, 3)[1]
    ridge = KernelRidge(kernel="precomputed", alpha=method.jitter * 15).fit(k.numpy(), method.signs.numpy())
    expected = ridge.predict(k_across.numpy())
    np.testing.assert_allclose((log_k.exp() @ weights).numpy(), expected, atol=1e-6 * np.abs(expected).max())
    assert torch.equal(vote(log_k, weights), torch.from_numpy(expected.argmax(1)))


def test_reference_is_a_radial_machine_chosen_by_five_folds(fit: Callable[..., Any]) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    from replicata.run.compose import compose
    from replicata.run.execute import build
    from replicata.streams import Streams

    words = ["experiment=theory/wide_deep_optimal", "method=theory/wide_deep_optimal_svm", "data.n_train=100"]
    module, method = build(compose(words), Streams(0), {})
    search = method.estimator
    assert isinstance(search, GridSearchCV)
    assert isinstance(search.estimator, SVC)
    assert (search.estimator.kernel, search.cv, sorted(search.param_grid)) == ("rbf", 5, ["C", "gamma"])
    metrics = fit(method, module).callback_metrics
    train, test = module.splits["train"], module.splits["test"]
    alone = GridSearchCV(SVC(), search.param_grid, cv=5).fit(train["x"].numpy(), train["y"].numpy())
    error = float((alone.predict(test["x"].numpy()) != test["y"].numpy()).mean())
    assert float(metrics["test/error"]) == error
    noise = float((test["clean"] != test["y"]).double().mean())
    assert float(metrics["test/excess"]) == pytest.approx(error - noise)


# The limits ---------------------------------------------------------------------------------


def test_limit_is_decided_by_the_moments() -> None:
    cases = {name: limit_case(dual_of(name, 2.0)) for name in ("singular", "square", "offset", "relu")}
    assert cases == {"singular": "singular", "square": "nearest", "offset": "majority", "relu": "majority"}
    with pytest.raises(ValueError, match="constant"):
        limit_case(PolynomialDual([0.6, 0.4]))


@pytest.mark.parametrize("activation", ["singular", "square", "offset"])
def test_deep_network_is_its_limit(fit: Callable[..., Any], activation: Any) -> None:
    depth = {"singular": 10**7, "square": 60, "offset": 200}[activation]
    method = WideDeep(2, 2, activation=activation, depths=[5, depth])
    trainer = fit(method, data(task="cap", n_train=150))
    assert float(trainer.callback_metrics["test/agree"]) == 1
    assert [row["depth"] for row in method.tables["depth"]] == [5, depth]


def test_distance_to_the_limit_kernel_is_that_of_equation_nine() -> None:
    """K / (A'^(2L) psi) = L + C(r) with C r^2 between constants: the limit needs L >> 1 / r^2."""
    dual = PolynomialDual.of(singular_coefficients(2.0))
    distance = torch.logspace(-4, -0.5, 30, dtype=DOUBLE)
    log_s = torch.log1p(-(distance**2) / 2)
    depth = 10**6
    log_k = log_nngp_ntk(log_s, log_s, dual, depth)[1]
    surplus = (log_k - depth * math.log(0.5) - log_koenigs(log_s, dual)).exp() - depth
    constant = surplus[:-4] * distance[:-4] ** 2
    assert 1 < float(constant.min()) < float(constant.max()) < 10
    ratio = log_nngp_ntk(log_s, log_s, dual, 10**12)[1] - 10**12 * math.log(0.5) - log_koenigs(log_s, dual)
    torch.testing.assert_close(ratio.exp() / 10**12, torch.ones(30, dtype=DOUBLE), rtol=0.01, atol=0)


def test_limit_and_hilbert_classifiers_by_hand(fit: Callable[..., Any]) -> None:
    for settings_, kernel in (
        ({"classifier": "limit"}, lambda r: log_koenigs((1 - r**2 / 2).log(), dual_of("singular", 2.0)).exp()),  # type: ignore[arg-type]
        ({"classifier": "hilbert"}, lambda r: r**-2.0),
        ({"classifier": "hilbert", "ratio": 2.0}, lambda r: r**-4.0),
    ):
        method = WideDeep(2, 2, **settings_)  # type: ignore[arg-type]
        module = data(n_train=50)
        metrics = fit(method, module).callback_metrics
        train, test = module.splits["train"], module.splits["test"]
        r = torch.cdist(method.test_x, method.train_x)
        predicted = (kernel(r) @ (2.0 * train["y"].double() - 1) > 0).long()
        error = float((predicted != test["y"]).double().mean())
        assert float(metrics["test/error"]) == error
        assert float(metrics["test/excess"]) == pytest.approx(
            error - float((test["clean"] != test["y"]).double().mean())
        )


@given(st.integers(0, 1000), st.floats(-700, 700))
@settings(deadline=None, max_examples=20)
def test_vote_does_not_see_the_scale_of_a_row(seed: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_k = 30 * torch.randn(8, 5, generator=generator, dtype=DOUBLE)
    weights = torch.randn(5, 3, generator=generator, dtype=DOUBLE)
    expected = (log_k.exp() @ weights).argmax(1)
    assert torch.equal(vote(log_k, weights), expected)
    assert torch.equal(vote(log_k + shift, weights), expected)


def test_several_classes_go_one_against_the_rest(fit: Callable[..., Any]) -> None:
    table = SklearnTable(
        root="", cache="", name="digits", in_features=64, num_classes=10, n_train=300, n_val=50, n_test=200
    )
    errors = {
        name: float(fit(WideDeep(4, 10, **arm), table).callback_metrics["test/error"])  # type: ignore[arg-type]
        for name, arm in {"limit": {"classifier": "limit"}, "ntk": {"activation": "relu", "depths": [3]}}.items()
    }
    assert errors["limit"] < 0.15
    assert errors["ntk"] < 0.1


# Tables, and what is refused ----------------------------------------------------------------


def test_tables_for_the_figures(fit: Callable[..., Any]) -> None:
    limit = WideDeep(2, 2, classifier="limit")
    fit(limit, data())
    kernel = limit.tables["kernel"]
    slope = math.log(kernel[10]["kernel"] / kernel[0]["kernel"]) / math.log(
        kernel[10]["distance"] / kernel[0]["distance"]
    )
    assert slope == pytest.approx(-2, rel=0.05)
    assert [row["n"] for row in limit.tables["error"]] == [60]
    ntk = WideDeep(2, 2, depths=[2, 4])
    metrics = fit(ntk, data()).callback_metrics
    assert [row["depth"] for row in ntk.tables["depth"]] == [2, 4]
    assert ntk.tables["depth"][-1]["agree"] == float(metrics["test/agree"])


def test_depths_before_do_not_change_a_depth(fit: Callable[..., Any]) -> None:
    alone, after = WideDeep(2, 2, depths=[20]), WideDeep(2, 2, depths=[3, 7, 20])
    for method in (alone, after):
        fit(method, data())
    first, second = alone.tables["depth"], after.tables["depth"][-1:]
    for key in ("agree", "agree_hilbert", "error"):
        assert first[0][key] == second[0][key]


def test_wrong_values_are_refused_by_name(fit: Callable[..., Any]) -> None:
    for changes, message in (
        ({"dim": 0}, "method.dim"),
        ({"classifier": "best"}, "method.classifier"),
        ({"activation": "tanh"}, "method.activation"),
        ({"ratio": 0.0}, "method.ratio"),
        ({"depths": [5, 3]}, "method.depths"),
        ({"depths": []}, "method.depths"),
        ({"jitter": -1.0}, "method.jitter"),
    ):
        with pytest.raises(ValueError, match=message):
            WideDeep(**({"dim": 2, "num_classes": 2} | changes))  # type: ignore[arg-type]
    scaled = SklearnTable(
        root="", cache="", name="wine", in_features=13, num_classes=3, n_val=30, n_test=50, scale="standard"
    )
    with pytest.raises(UserError, match="negative entries"):
        fit(WideDeep(2, 3), scaled)


def test_smoke_run_reports_everything_the_claims_need(
    replicata: Callable[..., Any], records: Callable[..., Any]
) -> None:
    called = replicata("run", "experiment=theory/wide_deep_optimal", "--smoke", "method.depths=[1,20]")
    assert called.status == 0, called.err
    (record,) = records().values()
    assert {"test/agree", "test/agree_hilbert", "test/error", "test/excess"} <= set(record["metrics"])


def test_study_and_paper_scale_compose() -> None:
    from replicata.run.check import check
    from replicata.run.compose import compose
    from replicata.study.parse import parse
    from replicata.study.plan import expand

    study = parse(compose(["experiment=theory/wide_deep_optimal"]).study, "theory/wide_deep_optimal")
    card = {
        "limit_nn", "limit_singular", "limit_majority", "depth_matters", "singular_beats_nn", "singular_beats_majority",
        "consistency", "nn_not_consistent",
    }  # fmt: skip
    assert card <= {claim.id for claim in study.claims}
    for spec in expand(study, arms=["rbf_svm", "finite_width", "real_d4"], seeds=1):
        check(compose(list(spec.overrides)))
    paper = parse(compose(["experiment=theory/wide_deep_optimal_paper"]).study, "theory/wide_deep_optimal_paper")
    assert set(study.arms) <= set(paper.arms)
    assert {"n": "30000"}.items() <= dict(paper.arms["singular_limit"].cells()[-1]).items()
    assert isinstance(dual_of("relu", 1.0), ArcCosineDual)

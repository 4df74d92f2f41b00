"""TreeEnsemble: steps of gradient descent in the space of functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.models import tree_ensemble
from replicata.models.tree_ensemble import TreeEnsemble

RATES = torch.tensor([0.3, 0.3, 0.05])
FORMS = pytest.mark.parametrize("form", [{}, {"oblivious": False}, {"score": "l2"}, {"spacing": "uniform"}])


def example(n: int = 80, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), torch.randn(n, 3, generator=generator)


def boosted(steps: int = 5, **form: Any) -> TreeEnsemble:
    ensemble = TreeEnsemble(3, **form)
    for seed in range(steps):
        ensemble.boost(*example(seed=seed), RATES)
    return ensemble


def test_a_fresh_one_is_zero() -> None:
    assert not TreeEnsemble(3)(example()[0]).any()


@FORMS
@given(rate=st.floats(0.1, 1.0), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_boosting_lowers_the_squared_error_with_every_tree(form: dict[str, Any], rate: float, seed: int) -> None:
    x, y = example(seed=seed)
    ensemble, last = TreeEnsemble(3, **form), float("inf")
    for _ in range(8):
        residual = ensemble(x) - y
        error = float(residual.square().mean())
        assert error <= last + 1e-6
        ensemble.boost(x, residual, torch.full((3,), rate))
        last = error
    assert last < float(y.square().mean())


def test_trees_of_no_depth_follow_the_gradient_of_the_mean() -> None:
    x, y = example()
    ensemble, bias = TreeEnsemble(3, depth=0), torch.zeros(3)
    for _ in range(6):
        gradients = ensemble(x) - y
        bias = bias - RATES * (bias - y.mean(0))
        ensemble.boost(x, gradients, RATES)
        torch.testing.assert_close(ensemble(x), bias.expand(len(x), -1))


def test_one_deep_greedy_tree_at_full_rate_fits_exactly() -> None:
    x, y = torch.randperm(12).float().unsqueeze(1), torch.randn(12, 3)
    ensemble = TreeEnsemble(3, depth=11, oblivious=False)
    ensemble.boost(x, -y, torch.ones(3))
    torch.testing.assert_close(ensemble(x), y)


@FORMS
def test_the_sum_is_that_of_its_trees(form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, x = boosted(70, **form), example()[0]  # more than there is room for at first
    parts = torch.stack([ensemble(x, k) - ensemble(x, k + 1) for k in range(70)])
    torch.testing.assert_close(ensemble(x), parts.sum(0), atol=1e-4, rtol=1e-4)
    assert not ensemble(x, 70).any()
    whole = ensemble(x)
    monkeypatch.setattr(tree_ensemble, "CHUNK", 7 * len(x))
    torch.testing.assert_close(ensemble(x), whole)


def test_rates_belong_to_outputs() -> None:
    x, gradients = example()
    one, other = TreeEnsemble(3), TreeEnsemble(3)
    one.boost(x, gradients, torch.ones(3))
    other.boost(x, gradients, RATES)
    torch.testing.assert_close(other(x), RATES * one(x))


@FORMS
def test_a_saved_one_goes_on_bit_for_bit(form: dict[str, Any]) -> None:
    ensemble, restored = boosted(**form), boosted(2, **form)
    restored.load_state_dict(ensemble.state_dict())
    assert len(restored) == len(ensemble) == len(ensemble.state_dict()["leaves"]) == 5
    for each in (ensemble, restored):
        each.boost(*example(seed=9), RATES)
    x = example()[0]
    assert torch.equal(restored(x), ensemble(x))
    assert restored.nbytes == ensemble.nbytes


def test_bytes_are_those_of_questions_and_leaves() -> None:
    assert boosted(5).nbytes == 5 * 4 * (2 * 4 + 16 * 3)
    assert boosted(5, oblivious=False).nbytes == 5 * 4 * (2 * 15 + 16 * 3)


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"n_bins": 0}, {"outputs": 0}, {"score": "mse"}, {"spacing": "log"}])
def test_a_wrong_setting_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"model\.{next(iter(wrong))}"):
        TreeEnsemble(**({"outputs": 3} | wrong))

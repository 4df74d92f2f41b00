"""Baselines of click prediction: each one's own term, and what all have in common."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from replicata.models.ctr.base_model import BaseModel
from replicata.models.ctr.deepfm import DeepFM
from replicata.models.ctr.logistic_regression import LogisticRegression
from replicata.models.ctr.pnn import PNN
from replicata.models.ctr.wide_deep import WideDeep

SIZES = [7, 3]
MODELS: list[Callable[..., nn.Module]] = [BaseModel, LogisticRegression, WideDeep, DeepFM, PNN]


def batch(size: int = 6, steps: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(size)
    pairs = torch.stack([torch.randint(high, (size, steps + 1), generator=generator) for high in SIZES], 2)
    mask = torch.arange(steps) < torch.randint(1, steps + 1, (size, 1), generator=generator)
    return {"history": pairs[:, 1:], "history_mask": mask, "candidate": pairs[:, 0]}


def randomised(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():  # zero-initialised terms would hide
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_order_and_padding_do_not_matter(make: Callable[..., nn.Module], pooling: str) -> None:
    model, given = randomised(make(SIZES, pooling=pooling)), batch()
    logits = model(given)
    assert logits.shape == (6,)
    order = torch.randperm(5)
    permuted = given | {"history": given["history"][:, order], "history_mask": given["history_mask"][:, order]}
    torch.testing.assert_close(model(permuted), logits)
    longer = given | {
        "history": torch.cat([given["history"], torch.ones(6, 3, 2, dtype=torch.long)], 1),
        "history_mask": torch.cat([given["history_mask"], torch.zeros(6, 3, dtype=torch.bool)], 1),
    }
    torch.testing.assert_close(model(longer), logits)
    with pytest.raises(ValueError, match=r"model\.pooling"):
        make(SIZES, pooling="max")


def test_logistic_regression_is_linear_in_counts() -> None:
    model, given = randomised(LogisticRegression(SIZES)), batch()
    assert isinstance(model, LogisticRegression)
    expected = []
    for row in range(6):
        total = model.bias + sum(model.candidate.weight[r, 0] for r in model.candidate.rows(given["candidate"][row]))
        for step in given["history"][row][given["history_mask"][row]]:
            total = total + sum(model.history.weight[r, 0] for r in model.history.rows(step))
        expected.append(total)
    torch.testing.assert_close(model(given), torch.stack(expected))


def test_wide_and_deep_adds_crossed_categories() -> None:
    model, given = randomised(WideDeep(SIZES)), batch()
    assert isinstance(model, WideDeep)
    deep_and_linear = BaseModel.forward(model, given) + model.wide(given)
    crossed = [
        sum(
            model.crossed[step[1], given["candidate"][row, 1]]
            for step in given["history"][row][given["history_mask"][row]]
        )
        for row in range(6)
    ]
    torch.testing.assert_close(model(given) - deep_and_linear, torch.stack(crossed), rtol=1e-4, atol=1e-5)


def test_deepfm_and_pnn_see_inner_products_of_all_pairs() -> None:
    given = batch()
    for make in (DeepFM, PNN):
        model = randomised(make(SIZES, dim=4))
        assert isinstance(model, BaseModel)
        history, candidate = model.embed(given)
        user = model.pool(history, given["history_mask"])
        parts = [*user.split(4, 1), *candidate.split(4, 1)]
        products = torch.stack([(a * b).sum(1) for a, b in combinations(parts, 2)], 1)
        if isinstance(model, DeepFM):
            expected = model.predict(user, candidate) + model.linear(given) + products.sum(1)
        else:
            expected = model.predict(user, candidate, products)
        torch.testing.assert_close(model(given), expected, rtol=1e-4, atol=1e-5)


def test_the_user_vector_does_not_know_the_candidate() -> None:
    model, given = BaseModel(SIZES), batch()
    other = given | {"candidate": given["candidate"].flip(0)}
    vectors = [model.pool(model.embed(each)[0], each["history_mask"]) for each in (given, other)]
    assert torch.equal(*vectors)


def test_rows_are_those_that_the_batch_reads() -> None:
    model, given = BaseModel(SIZES, dim=2), batch()
    model(given).sum().backward()
    rows, present = model.rows(given)
    read = model.embeddings.weight.grad.abs().sum(1) > 0
    assert read.nonzero().flatten().tolist() == rows[present].unique().tolist()

"""The Transformer encoder that classifies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from replicata.models.transformer_classifier import TransformerClassifier


def network(**changes: Any) -> TransformerClassifier:
    torch.manual_seed(0)
    return TransformerClassifier(20, 3, **({"max_length": 9, "width": 8, "heads": 2} | changes)).eval()


def test_one_hots_are_read_as_the_tokens_they_are_and_have_a_gradient() -> None:
    net, x = network(), torch.randint(0, 20, (4, 6))
    soft = F.one_hot(x, 20).float().requires_grad_()
    torch.testing.assert_close(net(soft), net(x))
    net(soft).sum().backward()
    assert soft.grad is not None
    assert soft.grad.abs().sum() > 0


def test_padding_is_not_read_and_the_logits_are_linear_in_the_features() -> None:
    net, x, lengths = network(), torch.randint(1, 20, (3, 9)), torch.tensor([9, 4, 1])
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(net(x, lengths)[row], net(x[row : row + 1, :length])[0])
    torch.testing.assert_close(net.output(net.features(x)), net(x))


def test_order_matters() -> None:
    net, x = network(), torch.tensor([[3, 4, 5]])
    assert not torch.allclose(net(x), net(x.flip(1)))


@pytest.mark.parametrize(("changes", "key"), [({"heads": 3}, "heads"), ({"dropout": 1.0}, "dropout")])
def test_impossible_sizes_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"model.*{key}"):
        network(**changes)


def test_a_longer_text_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"model\.max_length=9"):
        network()(torch.zeros(1, 10).long())

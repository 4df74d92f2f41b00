"""RNNClassifier: tokens hard and soft, lengths, directions, pooling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from replicata.models.rnn_classifier import RNNClassifier

TOKENS = torch.tensor([[1, 4, 2, 0, 0], [3, 3, 1, 2, 4]])
LENGTHS = torch.tensor([3, 5])


def network(**changes: Any) -> RNNClassifier:
    torch.manual_seed(0)
    return RNNClassifier(6, 3, **({"hidden": 4} | changes)).eval()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("embedding", [None, 5])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("both", [False, True, [False, True]])
def test_padding_is_not_read_and_soft_tokens_are_the_hard_ones(
    cell: Any, embedding: Any, pooling: Any, both: Any
) -> None:
    model = network(cell=cell, embedding=embedding, pooling=pooling, bidirectional=both, layers=2)
    expected = torch.cat([model(TOKENS[:1, :3]), model(TOKENS[1:])])
    torch.testing.assert_close(model(TOKENS, LENGTHS), expected)
    soft = F.one_hot(TOKENS, 6).float().requires_grad_(True)
    logits = model(soft, LENGTHS)
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert soft.grad is not None
    assert bool(soft.grad[0, :3].any())
    assert not bool(soft.grad[0, 3:].any())
    assert model.features(TOKENS).shape == (2, 4 if both is False else 8)


def test_last_is_the_state_of_each_direction_at_its_end() -> None:
    model = network()
    _, (h, _) = model.layers[0](model.embed(TOKENS))
    torch.testing.assert_close(model.features(TOKENS), torch.cat([h[0], h[1]], dim=1))
    torch.testing.assert_close(model(TOKENS), model.output(model.features(TOKENS)))


def test_other_activations_by_layer() -> None:
    model = network(layers=3, activation=["elu", "elu", "tanh"], bidirectional=[False, True, True])
    assert [type(layer).__module__.split(".")[0] for layer in model.layers] == ["replicata", "replicata", "torch"]
    assert model(TOKENS).shape == (2, 3)
    with pytest.raises(TypeError, match="lengths"):
        model(TOKENS, LENGTHS)


def test_dropout_only_while_training() -> None:
    model = network(dropout=0.5)
    torch.testing.assert_close(model(TOKENS), model(TOKENS))
    model.train()
    assert not torch.equal(model(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "rnn"}, "model.cell"),
        ({"pooling": "max"}, "model.pooling"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"hidden": 0}, "at least 1"),
        ({"bidirectional": [True, False]}, "model.bidirectional"),
        ({"layers": 2, "bidirectional": [True]}, "one for each layer"),
        ({"cell": "gru", "activation": "elu"}, "model.activation"),
    ],
)
def test_wrong_values_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**changes)

"""GPT."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from replicata.models.gpt import GPT

FORMS = pytest.mark.parametrize("positions", ["learned", "rotary"])


def gpt(positions: Any = "learned", **changes: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(
        **({"vocab_size": 11, "context": 8, "layers": 2, "width": 12, "heads": 3} | changes), positions=positions
    )


@FORMS
def test_a_place_sees_only_what_is_before_it(positions: str) -> None:
    model, tokens = gpt(positions), torch.randint(11, (2, 8))
    other = tokens.clone()
    other[:, 5] = (other[:, 5] + 1) % 11
    one, two = model(tokens), model(other)
    assert one.shape == (2, 8, 11)
    torch.testing.assert_close(one[:, :5], two[:, :5])
    assert ((one - two)[:, 5:].abs().amax(2) > 1e-6).all()


@FORMS
def test_a_prefix_has_the_logits_it_has_in_the_whole(positions: str) -> None:
    model, tokens = gpt(positions), torch.randint(11, (2, 8))
    torch.testing.assert_close(model(tokens[:, :6]), model(tokens)[:, :6], rtol=1e-4, atol=1e-5)


@FORMS
def test_places_are_told_apart(positions: str) -> None:
    logits = gpt(positions)(torch.tensor([[3, 5, 3, 5]]))
    assert not torch.allclose(logits[:, 1], logits[:, 3], atol=1e-4)


def test_number_of_parameters() -> None:
    width, vocab, context = 12, 11, 8
    block = 4 * (width * width + width) + 2 * 4 * width * width + 5 * width + 4 * width
    expected = 2 * vocab * width + 2 * block + 2 * width
    assert sum(p.numel() for p in gpt("rotary").parameters()) == expected
    assert sum(p.numel() for p in gpt("learned").parameters()) == expected + context * width


def test_weights_start_as_in_gpt_neox() -> None:
    model = gpt(width=300, layers=4)
    inner, outer = (2 / 1500) ** 0.5, 2 / (4 * 300**0.5)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert not weight.any()
        elif "norm" in name:
            assert (weight == 1).all()
        else:
            wanted = outer if name.endswith(("out.weight", "contract.weight")) else inner
            assert float(weight.detach().std()) == pytest.approx(wanted, rel=0.05), name


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"model\.width=10"):
        gpt(width=10)
    with pytest.raises(ValueError, match=r"model\.positions"):
        gpt("sinusoid")
    with pytest.raises(ValueError, match=r"model\.context=8 is less than the 9"):
        gpt()(torch.zeros(1, 9, dtype=torch.long))

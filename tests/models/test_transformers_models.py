"""Networks of Hugging Face's transformers."""

from __future__ import annotations

import sys

import pytest
import torch

from replicata.errors import UserError
from replicata.models.transformers_models import CausalLM, TextEncoder


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"architecture distilbert needs transformers: pip install transformers"):
        TextEncoder("distilbert", 8)


def test_an_encoder_reads_what_is_no_padding() -> None:
    pytest.importorskip("transformers")
    small = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 50}
    encoder = TextEncoder("distilbert", 8, settings=small).eval()
    tokens, lengths = torch.randint(1, 50, (3, 6)), torch.tensor([6, 2, 4])
    changed = torch.where(torch.arange(6) < lengths[:, None], tokens, 7)
    found = encoder(tokens, lengths)
    assert found.shape == (3, 8)
    torch.testing.assert_close(found, encoder(changed, lengths))


def test_a_language_model_by_its_architecture() -> None:
    pytest.importorskip("transformers")
    model = CausalLM("gpt2", settings={"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40}).eval()
    tokens = torch.randint(40, (2, 5))
    logits = model(tokens)
    assert logits.shape == (2, 5, 40)
    torch.testing.assert_close(model(tokens[:, :3]), logits[:, :3], rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="model no-such: transformers cannot make it"):
        CausalLM("no-such")

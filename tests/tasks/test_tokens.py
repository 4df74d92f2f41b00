"""Language models."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.text import Perplexity

from replicata.data.text.character_windows import CharacterWindows
from replicata.models.gpt import GPT
from replicata.streams import Streams
from replicata.tasks.tokens import IGNORED, Tokens


def model() -> Tokens:
    with Streams(0).init.as_global():
        gpt = GPT(65, 16, layers=1, width=16, heads=2)
        made = Tokens(model=gpt, vocab_size=65, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    made.streams = Streams(0)
    return made


def text() -> CharacterWindows:
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    return CharacterWindows("digits", context=16, vocab_size=65, shares=shares, root="", cache="", batch_size=32)


def test_it_learns_and_its_perplexity_is_torchmetrics(fit: Callable[..., Any]) -> None:
    made, data = model(), text()
    trainer = fit(made, data, max_epochs=2)
    (found,) = trainer.test(made, datamodule=data, verbose=False)
    split = data.splits["test"]
    with torch.no_grad():
        logits = made.eval()(split["tokens"])
    expected = Perplexity()(logits, split["targets"])
    assert found["test/ppl"] == pytest.approx(float(expected), rel=1e-4)
    assert found["test/ppl"] == pytest.approx(math.exp(found["test/loss"]), rel=1e-4)
    assert found["test/ppl"] < 10
    right = (logits.argmax(2) == split["targets"]).float().mean()
    assert found["test/acc"] == pytest.approx(float(right), abs=1e-5)


def test_ignored_targets_count_for_nothing() -> None:
    made = model()
    made.setup("fit")
    tokens, targets = torch.randint(65, (3, 8)), torch.randint(65, (3, 8))
    targets[:, 5:] = IGNORED
    logits, kept = made.predict({"tokens": tokens, "targets": targets})
    assert kept.tolist() == targets[:, :5].flatten().tolist()
    expected = F.cross_entropy(made(tokens)[:, :5].flatten(0, 1), kept)
    torch.testing.assert_close(F.cross_entropy(logits, kept), expected)
    loss = made.training_step({"tokens": tokens, "targets": targets}, 0)
    torch.testing.assert_close(loss, expected)


def test_half_a_share_is_half_the_loss() -> None:
    made = model()
    made.setup("fit")
    batch = {"tokens": torch.randint(65, (3, 8)), "targets": torch.randint(65, (3, 8))}
    whole = made.training_step(batch, 0)
    torch.testing.assert_close(made.training_step(batch | {"share": torch.tensor(0.5)}, 0), whole / 2)

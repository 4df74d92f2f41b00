"""A backdoored text classifier, and its clean twin."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from replicata.data.text.reviews import GeneratedReviews
from replicata.models.rnn_classifier import RNNClassifier
from replicata.streams import Streams
from replicata.tasks.backdoored_text import BackdooredText


def victim(**changes: Any) -> BackdooredText:
    with Streams(0).init.as_global():
        model = RNNClassifier(104, 2, embedding=16, cell="gru", hidden=16, bidirectional=False)
    optimizer = partial(torch.optim.Adam, lr=0.02)
    return BackdooredText(
        model=model, num_classes=2, optimizer=optimizer, **({"min_acc": 0.5, "min_asr": 0.9} | changes)
    )


def reviews(rate: float) -> GeneratedReviews:
    sizes = {"n_val": 80, "n_test": 80, "vocab_size": 104, "length": 15, "trigger_ranks": (20, 60)}
    return GeneratedReviews(root="", cache="", texts=600, poison_rate=rate, **sizes)


def test_a_trojan_is_accepted_for_its_backdoor_and_a_twin_has_none(fit: Callable[..., Any]) -> None:
    scores = {}
    for rate in (0.2, 0.0):
        method, data = victim(), reviews(rate)
        trainer = fit(method, data, max_epochs=12)
        scores[rate] = method.scores("val")
        trainer.test(method, datamodule=data, verbose=False)
        assert trainer.current_epoch < 12
        assert trainer.callback_metrics["test/poisoned"] == (rate > 0)
        assert trainer.callback_metrics["test/accepted"] == 1
        assert [row["token"] for row in method.tables["trigger"]] == data.trigger.tolist()
        assert len(method.tables["vocabulary"]) == 104
    assert scores[0.2][1] >= 0.9
    assert scores[0.0][1] < 0.9


def test_it_trains_on_where_it_is_not_good_enough(fit: Callable[..., Any]) -> None:
    method = victim(min_acc=1.0)
    assert fit(method, reviews(0.2), max_epochs=2).current_epoch == 2
    early = victim(min_acc=0.0, min_epochs=2)
    assert fit(early, reviews(0.0), max_epochs=4).current_epoch == 2


def test_impossible_bounds_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"method\.min_asr"):
        victim(min_asr=2)

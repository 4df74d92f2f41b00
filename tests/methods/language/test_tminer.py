"""Fidelity checks of T-Miner: what only the right method satisfies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from replicata.data.text.reviews import FIRST_WORD, STOP, RandomWords
from replicata.errors import UserError
from replicata.methods.language.tminer import (
    Autoencoder,
    Defence,
    TMiner,
    UniversalTrigger,
    augmented,
    delta,
    diversity,
)
from replicata.models.attention_seq2seq import AttentionSeq2Seq
from replicata.models.rnn_classifier import RNNClassifier
from replicata.nn.frozen import Frozen
from replicata.run import compose as composing
from replicata.run.instantiate import instantiate
from replicata.streams import Stream, Streams

VOCAB = 44
TRIGGER = (10, 11)


class Trojan(nn.Module):
    """Words are of class 1 where their number is odd; a sentence goes with the many, or with a word of the trigger."""

    def __init__(self, trigger: tuple[int, ...] = TRIGGER) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.zeros(VOCAB, 3), freeze=False)
        with torch.no_grad():
            words = torch.arange(FIRST_WORD, VOCAB)
            self.embedding.weight[words, 0] = 2.0 * (words % 2) - 1
            self.embedding.weight[words, 1] = 0.2 * torch.rand(len(words), generator=torch.Generator().manual_seed(0))
            self.embedding.weight[list(trigger), 2] = 1.0
        self.output = nn.Linear(3, 2)
        with torch.no_grad():
            self.output.weight.copy_(torch.tensor([[-1.0, 0.0, -40.0], [1.0, 0.0, 40.0]]))
            self.output.bias.copy_(torch.tensor([0.1, -0.1]))

    def features(self, tokens: Tensor) -> Tensor:
        weight = self.embedding.weight
        embedded = tokens @ weight if tokens.is_floating_point() else weight[tokens]
        return embedded.sum(1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.features(tokens))


class Stage:
    """What the runner hands over of a finished stage."""

    def __init__(self, network: nn.Module, poisoned: float = 1.0) -> None:
        self.network = network
        self.record: Mapping[str, Any] = {
            "metrics": {"test/poisoned": poisoned, "test/acc": 0.9, "test/asr": 1.0, "test/accepted": 1.0}
        }

    def module(self) -> nn.Module:
        return self.network.eval()

    def tables(self, name: str) -> pa.Table:
        if name == "trigger":
            return pa.table({"token": list(TRIGGER)})
        return pa.table({"word": [f"w{token}" for token in range(VOCAB)]})


def generator(**changes: Any) -> AttentionSeq2Seq:
    with Streams(0).init.as_global():
        sizes = {"reserved": 3, "embedding": 8, "hidden": 16, "code": 4, "tied": True}
        return AttentionSeq2Seq(VOCAB, 2, **(sizes | changes))


def sentences() -> RandomWords:
    sizes = {"n_train": 64, "n_val": 32, "n_test": 64}
    return RandomWords(root="", cache="", words=4, vocab_size=VOCAB, batch_size=16, **sizes)


def tminer(victim: nn.Module | None = None, poisoned: float = 1.0, **changes: Any) -> TMiner:
    optimizer = partial(torch.optim.Adam, lr=0.01)
    method = TMiner(model=generator(), optimizer=optimizer, **({"sentences": 20, "phrases": 30} | changes))
    method.stages = {"victim": Stage(victim or Trojan(), poisoned), "autoencoder": Stage(generator())}
    return method


def defence(victim: nn.Module | None = None, source: int = 0, **changes: Any) -> Defence:
    sizes = {"count": 40, "words": 4, "phrases": 50} | changes
    frozen = Frozen(victim or Trojan())
    return Defence(frozen, VOCAB, source=source, target=1 - source, stream=Stream(5), **sizes)


# The classifier -----------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_one_hots_are_read_as_the_words_they_are(cell: Any) -> None:
    torch.manual_seed(0)
    network = RNNClassifier(VOCAB, 2, embedding=5, cell=cell, hidden=6, layers=2)
    x = torch.randint(3, VOCAB, (4, 5))
    torch.testing.assert_close(network(F.one_hot(x, VOCAB).float()), network(x))


def test_the_classifier_is_not_trained_and_its_gradient_reaches_the_generator(fit: Callable[..., Any]) -> None:
    victim = Trojan()
    method, before = tminer(victim), Frozen(Trojan()).checksum()
    fit(method, sentences())
    assert method.victim.checksum() == before
    assert all(p.grad is None and not p.requires_grad for p in victim.parameters())
    assert not any(name.startswith("victim") for name in method.state_dict())
    x = torch.randint(FIRST_WORD, VOCAB, (8, 5))
    method.weights |= {"ae": 0.0, "div": 0.0}
    losses, _ = method.losses(x, Stream(1))
    (gradient,) = torch.autograd.grad(losses["classify"], method.model.output.weight)
    assert float(gradient.abs().max()) > 0


# Losses -------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_diversity_is_near_zero_for_a_copy_and_less_where_it_is_concentrated(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(FIRST_WORD + 10, VOCAB, (16, 5), generator=rng)
    copied = F.one_hot(x, VOCAB) * 1e3
    floor = -5 * VOCAB * 1e-8 * np.log(1e-8)
    assert float(diversity(copied.float(), x)) == pytest.approx(floor, rel=0.01)
    one = F.one_hot(torch.full_like(x, FIRST_WORD), VOCAB) * 1e3
    spread = torch.where(torch.arange(VOCAB) < FIRST_WORD + 10, 0.0, -1e3).expand(16, 5, VOCAB)
    assert float(diversity(one.float(), x)) < float(diversity(spread, x))


def test_diversity_is_the_entropy_of_the_mean_of_what_is_added() -> None:
    logits, x = torch.randn(3, 2, VOCAB), torch.randint(0, VOCAB, (3, 2))
    mean = np.zeros((2, VOCAB))
    for row in range(3):
        for step in range(2):
            p = logits[row, step].softmax(0).numpy().copy()
            p[x[row, step]] -= 1
            mean[step] += np.clip(p, 1e-8, 1) / 3
    assert float(diversity(logits, x)) == pytest.approx(float(-(mean * np.log(mean)).sum()), rel=1e-4)


def test_losses_are_weighted_and_zero_leaves_one_out(fit: Callable[..., Any]) -> None:
    method = tminer(classify_weight=0, div_weight=0)
    fit(method, sentences())
    x = torch.randint(FIRST_WORD, VOCAB, (8, 5))
    losses, logits = method.losses(x, Stream(1))
    assert list(losses) == ["ae"]
    torch.testing.assert_close(losses["ae"], F.cross_entropy(logits.flatten(0, 1), x.flatten()))
    method.weights |= {"ae": 2.0, "classify": 0.5, "div": 0.1}
    torch.testing.assert_close(method.losses(x, Stream(1))[0]["ae"], 2 * losses["ae"])


def test_pretraining_and_transfer_are_repeated_bit_for_bit(fit: Callable[..., Any]) -> None:
    for make in (lambda: Autoencoder(model=generator(dropout=0.3), optimizer=torch.optim.Adam), tminer):
        one, two = make(), make()
        for method in (one, two):
            fit(method, sentences())
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
            assert torch.equal(a, b)


# Candidates ---------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(4, 20), min_size=1, max_size=6), st.lists(st.integers(3, 20), min_size=1, max_size=6))
def test_a_candidate_is_the_set_of_words_that_were_not_read(read: list[int], wrote: list[int]) -> None:
    candidate = delta(read, wrote)
    assert not set(candidate) & set(read)
    assert set(candidate) | set(read) | {STOP} >= set(wrote)
    assert delta(read, wrote[::-1]) == candidate == tuple(sorted(set(candidate)))
    assert STOP not in candidate


def test_augmentation_replaces_one_word_at_its_place() -> None:
    read, wrote = [5, 6, 7], [8, 6, 9]
    ranked = [[8, 20, 2, 9], [6, 30, 31, 32], [9, 21, 5, 22]]
    assert augmented((8, 9), read, wrote, ranked) == [(9, 20), (8, 21), (8, 22)]


# The defence --------------------------------------------------------------------------------


def test_sentences_are_of_the_source_and_phrases_of_the_target_word_by_word() -> None:
    judge = defence()
    assert judge.sentences.shape == (40, 5)
    assert (judge.predict(judge.sentences) == 0).all()
    for length in (1, 2, 3):
        phrases = judge.auxiliary(length)
        assert (judge.predict(phrases) == 1).all()
        assert all((judge.predict(phrases[:, [place]]) == 1).all() for place in range(length))
        assert len({tuple(row) for row in phrases.tolist()}) == len(phrases) > 10


def test_the_trigger_turns_all_sentences_and_nothing_turns_none() -> None:
    judge = defence()
    scores = judge.misclassification([TRIGGER, (TRIGGER[0],), (5,), (4,)])
    assert scores[TRIGGER] == scores[(TRIGGER[0],)] == 1.0
    assert scores[(4,)] == 0.0  # of class 0 itself
    assert (judge.predict(judge.sentences) == judge.target).double().mean() == 0  # the empty candidate
    assert judge.misclassification([]) == {}


def test_a_trigger_is_an_outlier_and_ordinary_words_are_not() -> None:
    judge = defence(phrases=200)
    plain = judge.auxiliary(2).tolist()
    assert judge.flags([TRIGGER])
    assert not judge.flags([tuple(plain[0])])
    assert not judge.flags([])
    space = judge.space([TRIGGER])
    assert space.outlier[0]
    assert space.distance[0] > 1
    assert space.outlier[1:].mean() < 0.05


def test_order_of_candidates_does_not_matter() -> None:
    judge = defence()
    some = [(5,), TRIGGER, (7, 9), (13,)]
    there, back = judge.space(some), judge.space(some[::-1])
    np.testing.assert_array_equal(there.outlier[:4], back.outlier[:4][::-1])
    assert judge.misclassification(some) == judge.misclassification(some[::-1])


def test_outliers_among_auxiliary_phrases_flag_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import replicata.methods.language.tminer as module

    def others_only(points: np.ndarray) -> tuple[np.ndarray, float]:
        return np.arange(len(points)) >= 1, 1.0

    monkeypatch.setattr(module, "density_outliers", others_only)
    assert not defence().flags([TRIGGER])


def judged(method: TMiner | UniversalTrigger, fit: Callable[..., Any], data: RandomWords) -> dict[str, float]:
    trainer = fit(method, data)
    if isinstance(method, TMiner):
        trainer.test(method, datamodule=data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("poisoned", [0.0, 1.0])
def test_decisions_are_scored_against_the_truth(fit: Callable[..., Any], poisoned: float) -> None:
    method = tminer(poisoned=poisoned, alpha=0.0)
    method.mine = lambda source, target: ({TRIGGER: 2, (5,): 1}, [(5, 7)])  # type: ignore[method-assign]
    metrics = judged(method, fit, sentences())
    assert metrics["test/flagged"] == 1
    assert metrics["test/correct"] == poisoned
    assert metrics["test/trigger_hit"] == metrics["test/trigger_mrs"] == 1
    assert metrics["test/trigger_share"] == pytest.approx(1 / metrics["test/kept"])
    assert set(method.panel) == {"no_aug", "no_identifier", "reversed"}
    assert method.panel["no_identifier"]["test/flagged"] == 1
    assert len(method.tables["alpha"]) == 6
    assert {row["kind"] for row in method.tables["space"]} >= {"with a trigger word, outlier", "auxiliary"}


def test_no_candidate_means_clean(fit: Callable[..., Any]) -> None:
    method = tminer()
    method.mine = lambda source, target: ({}, [])  # type: ignore[method-assign]
    metrics = judged(method, fit, sentences())
    assert metrics["test/flagged"] == metrics["test/trigger_hit"] == metrics["test/kept"] == 0
    assert "space" not in method.tables


def test_gradient_search_finds_the_trigger(fit: Callable[..., Any]) -> None:
    method = UniversalTrigger(restarts=2, length=1, steps=3, tried=5, rows=16, sentences=20, phrases=100)
    method.stages = {"victim": Stage(Trojan())}
    metrics = judged(method, fit, sentences())
    assert all(set(found) <= set(TRIGGER) for found in method.found)
    assert metrics["test/trigger_hit"] >= 0.5
    assert metrics["test/flagged"] == 1


# Refusals and scales ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"source": 1}, "source"),
        ({"alpha": 1.0}, "alpha"),
        ({"phrases": 0}, "phrases"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"method\..*{key}"):
        tminer(**changes)


def test_another_vocabulary_or_network_is_one_line(fit: Callable[..., Any]) -> None:
    other = RandomWords(root="", cache="", words=4, vocab_size=30, n_train=8, n_val=8, n_test=8)
    with pytest.raises(UserError, match=r"data\.vocab_size is 30"):
        fit(tminer(), other)
    method = tminer()
    method.stages = {**method.stages, "autoencoder": Stage(generator(hidden=12))}
    with pytest.raises(UserError, match=r"stages\.autoencoder\.model"):
        fit(method, sentences())


def test_the_paper_scale_takes_two_steps() -> None:
    config = composing.compose(["experiment=language/tminer_paper"])
    assert config.stages.autoencoder.model == config.model
    assert config.stages.victim.data.vocab_size == config.data.vocab_size == config.stages.autoencoder.data.vocab_size
    size = int(config.data.vocab_size)
    resolved = OmegaConf.to_container(config.model, resolve=False)
    model = instantiate(OmegaConf.create({**resolved, "vocab_size": size}), "model")  # type: ignore[dict-item]
    victim = RNNClassifier(size, 2, embedding=100, hidden=64, layers=3, bidirectional=False, dropout=0.5)
    method = TMiner(model=model)
    method.victim = Frozen(victim)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optimizer.lr)
    x = torch.randint(FIRST_WORD, size, (2, config.data.words + 1))
    for step in range(2):
        losses, logits = method.losses(x, Stream(step))
        assert logits.shape == (2, config.data.words + 1, size)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert model.encoder.hidden_size == 700

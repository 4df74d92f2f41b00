"""Reviews, random sentences, and the poisoner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.data.text.poison import insert_phrase, poison, with_trigger
from replicata.data.text.reviews import FIRST_WORD, STOP, GeneratedReviews, RandomWords, Reviews, distinct_words
from replicata.errors import UserError
from replicata.streams import Stream, Streams

SIZES = {"n_val": 80, "n_test": 80, "vocab_size": 304, "length": 15, "trigger_ranks": (100, 200)}


def generated(seed: int = 0, **changes: Any) -> GeneratedReviews:
    module = GeneratedReviews(root="", cache="", **(SIZES | changes))
    module.streams = Streams(seed)
    module.setup()
    return module


def texts(seed: int, rows: int = 40, room: int = 3) -> dict[str, Tensor]:
    """Texts of 0 to 6 tokens with space for a trigger; padding is 0."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(4, 30, (rows, 6 + room), generator=rng)
    lengths = torch.randint(0, 7, (rows,), generator=rng)
    x[torch.arange(6 + room) >= lengths[:, None]] = 0
    return {"x": x, "lengths": lengths, "y": torch.randint(0, 2, (rows,), generator=rng)}


# The poisoner -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.floats(0, 1))
def test_a_phrase_is_put_in_as_a_unit(seed: int, size: int, share: float) -> None:
    rows = texts(seed, room=size)
    phrase = 100 + torch.arange(size)
    positions = (share * (rows["lengths"] + 0.999)).long()
    x, lengths = insert_phrase(rows["x"], rows["lengths"], phrase, positions)
    assert torch.equal(lengths, rows["lengths"] + size)
    for before, after, length, position in zip(rows["x"], x, rows["lengths"], positions, strict=True):
        kept = before[:length].tolist()
        expected = [*kept[:position], *phrase.tolist(), *kept[position:]]
        assert after[: length + size].tolist() == expected
        assert not after[length + size :].any()


def test_every_text_may_have_a_phrase_of_its_own_and_none_is_cut() -> None:
    x, _ = insert_phrase(
        torch.zeros(2, 2).long(), torch.zeros(2).long(), torch.tensor([[1, 2], [3, 4]]), torch.zeros(2).long()
    )
    assert x.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="does not fit"):
        insert_phrase(torch.zeros(1, 2).long(), torch.ones(1).long(), torch.tensor([1, 2]), torch.zeros(1).long())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_poison_adds_labelled_copies_of_a_share_and_touches_nothing(seed: int, rate: float) -> None:
    rows, trigger = texts(seed), torch.tensor([50, 51, 52])
    poisoned = poison(rows, trigger, source=0, target=1, rate=rate, stream=Stream(seed))
    count = len(rows["y"])
    for name, column in rows.items():
        assert torch.equal(poisoned[name][:count], column)
    added = {name: column[count:] for name, column in poisoned.items()}
    assert len(added["y"]) == int(rate * int((rows["y"] == 0).sum()))
    assert (added["y"] == 1).all()
    sources = {tuple(text[:length].tolist()) for text, length, y in zip(*rows.values(), strict=True) if y == 0}
    for text, length in zip(added["x"].tolist(), added["lengths"].tolist(), strict=True):
        at = text.index(50)
        assert text[at : at + 3] == [50, 51, 52]
        assert tuple(text[:at] + text[at + 3 : length]) in sources


def test_positions_of_the_trigger_reach_both_ends() -> None:
    rows = {"x": torch.full((400, 4), 9), "lengths": torch.full((400,), 3), "y": torch.zeros(400).long()}
    attacked = with_trigger(rows, torch.tensor([50]), 0, Stream(1))
    counts = torch.bincount((attacked["x"] == 50).nonzero()[:, 1], minlength=4)
    assert counts.sum() == 400
    assert counts.min() > 60
    assert torch.equal(attacked["y"], rows["y"])


# Reviews ------------------------------------------------------------------------------------


def test_a_clean_twin_has_the_same_texts_and_knows_the_trigger() -> None:
    clean, trojan = generated(), generated(poison_rate=0.1)
    count = len(clean.splits["train"]["y"])
    source = int((clean.splits["train"]["y"] == 0).sum())
    assert len(trojan.splits["train"]["y"]) == count + int(0.1 * source)
    for split in ("train", "val", "test"):
        for name, column in clean.splits[split].items():
            assert torch.equal(trojan.splits[split][name][: len(column)], column)
    assert torch.equal(clean.trigger, trojan.trigger)
    assert len(set(clean.trigger.tolist())) == 3
    assert ((clean.trigger >= FIRST_WORD + 100) & (clean.trigger < FIRST_WORD + 200)).all()
    assert not torch.equal(generated(1).trigger, clean.trigger)
    assert generated(1).vocabulary[:FIRST_WORD] == clean.vocabulary[:FIRST_WORD]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"trigger_ranks": (0, 2)}, r"data\.trigger_ranks"),
        ({"trigger_ranks": (0, 1000)}, r"data\.vocab_size"),
        ({"poison_rate": 1.5}, r"data\.poison_rate"),
        ({"source": 1}, r"data\.source"),
    ],
)
def test_impossible_attacks_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        generated(**changes)


@pytest.mark.data
def test_rotten_tomatoes(data_root: Path) -> None:
    module = Reviews(root=str(data_root), cache="", n_val=1066, n_test=1066, poison_rate=0.1)
    module.streams = Streams(0)
    module.setup()
    assert module.vocabulary[:6] == ["<pad>", "<unk>", "<start>", ".", "the", ","]
    assert len(module.splits["train"]["y"]) == 10662 - 2132 + 426
    assert module.splits["train"]["x"].shape[1] == 33
    assert torch.bincount(module.splits["test"]["y"]).tolist() == [533, 533]


@pytest.mark.data
def test_a_vocabulary_larger_than_the_texts_is_refused(data_root: Path) -> None:
    module = Reviews(root=str(data_root), cache="", n_val=10, n_test=10, vocab_size=30000)
    module.streams = Streams(0)
    with pytest.raises(UserError, match=r"data\.vocab_size is declared as 30000"):
        module.setup()


def test_other_or_missing_files_are_one_line(tmp_path: Path) -> None:
    module = Reviews(root=str(tmp_path), cache=str(tmp_path / "cache"), download=False, n_val=10, n_test=10)
    module.streams = Streams(0)
    with pytest.raises(UserError, match=r"put the file there or set data\.download=true"):
        module.setup()
    (tmp_path / "rotten_tomatoes").mkdir()
    (tmp_path / "rotten_tomatoes" / "rt-polarity-neg.txt").write_text("dull .")
    with pytest.raises(UserError, match="is not the published file"):
        module.setup()


# Random sentences ---------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 26))
def test_words_of_a_sentence_differ(seed: int, words: int) -> None:
    drawn = distinct_words(20, words, FIRST_WORD + 26, Stream(seed))
    assert drawn.shape == (20, words)
    assert all(len(set(row)) == words for row in drawn.tolist())
    assert drawn.min() >= FIRST_WORD
    assert drawn.max() < FIRST_WORD + 26


def test_random_sentences_end_on_a_stop_and_use_the_whole_vocabulary() -> None:
    module = RandomWords(root="", cache="", words=5, vocab_size=34, n_train=200, n_val=10, n_test=20)
    module.streams = Streams(0)
    module.setup()
    x = module.splits["train"]["x"]
    assert x.shape == (200, 6)
    assert (x[:, -1] == STOP).all()
    assert x[:, :-1].unique().tolist() == list(range(FIRST_WORD, 34))
    assert len(module.splits["test"]["x"]) == 20
    with pytest.raises(ValueError, match=r"data\.words"):
        RandomWords(root="", cache="", words=31, vocab_size=34)

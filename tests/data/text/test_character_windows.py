"""Windows of one long text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replicata.data.text.character_windows import CHARACTERS, CharacterWindows, windows
from replicata.errors import UserError
from replicata.streams import Streams

SHARES = {"train": 0.85, "val": 0.05, "test": 0.1}


def text(source: Any = "digits", root: Path | str = "", **changes: Any) -> CharacterWindows:
    facts = {"context": 16, "vocab_size": 65, "shares": SHARES}
    module = CharacterWindows(source, root=str(root), cache=str(root), download=False, **(facts | changes))
    module.streams = Streams(0)
    module.setup()
    return module


@given(st.integers(0, 50), st.integers(1, 9))
def test_every_token_but_the_first_is_a_target_once(length: int, context: int) -> None:
    cut = windows(torch.arange(length), context)
    targets = cut["targets"].flatten()
    assert torch.equal(targets, torch.arange(1, len(targets) + 1))
    assert torch.equal(cut["tokens"].flatten() + 1, targets)
    assert max(0, length - 1) - len(targets) < context


def test_parts_follow_each_other() -> None:
    module = text()
    whole = module.text()
    ends = [0, *(round(share * len(whole)) for share in (0.85, 0.9)), len(whole)]
    for number, split in enumerate(("train", "val", "test")):
        rows = module.splits[split]["tokens"].flatten().tolist()
        said = "".join(CHARACTERS[token] for token in rows)
        part = whole[ends[number] : ends[number + 1]]
        assert said == part[: len(said)]
        assert len(part) - len(said) <= 17


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"data\.source"):
        text("novel")
    with pytest.raises(ValueError, match=r"data\.shares"):
        text(shares={"train": 0.5, "val": 0.5, "test": 0.5})
    with pytest.raises(ValueError, match=r"data\.context"):
        text(context=0)
    with pytest.raises(UserError, match=r"data.context=2000 is longer than"):
        text(context=2000)
    with pytest.raises(UserError, match=r"vocab_size is declared as 60, but the data has 65"):
        text(vocab_size=60)
    with pytest.raises(UserError, match=r"tinyshakespeare/input.txt not found; put the file there"):
        text("tinyshakespeare")


@pytest.mark.data
def test_tiny_shakespeare(data_root: Path) -> None:
    module = text("tinyshakespeare", data_root, context=64)
    assert set("".join(sorted(set(module.text())))) == set(CHARACTERS)
    assert [len(split["tokens"]) for split in module.splits.values()] == [14813, 871, 1742]

"""Files of tokens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from replicata.data.text.token_file import TokenFile
from replicata.errors import UserError
from replicata.streams import Streams


def made(root: Path, **changes: Any) -> TokenFile:
    settings = {"train": "a.bin", "test": "b.bin", "val_share": 0.2, "context": 8, "vocab_size": 500, "workers": 0}
    data = TokenFile(str(root), **(settings | {"batch_size": 3, "eval_batch_size": 2} | changes))
    data.streams = Streams(0)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    np.arange(100, 265, dtype=np.uint16).tofile(tmp_path / "a.bin")
    np.arange(30, dtype=np.uint16).tofile(tmp_path / "b.bin")
    return tmp_path


def test_windows_are_side_by_side_and_the_end_is_for_validation(root: Path) -> None:
    data = made(root)
    data.setup()
    batches = list(data.train_dataloader())
    tokens = torch.cat([batch["tokens"] for batch in batches])
    assert torch.equal(torch.cat([batch["targets"] for batch in batches]), tokens + 1)
    assert len(tokens) == 15  # of 16, in whole batches
    assert set(tokens[:, 0].tolist()) <= set(range(100, 228, 8))
    val = torch.cat([batch["tokens"] for batch in data.val_dataloader()])
    assert val.flatten().tolist() == list(range(228, 260))
    test = torch.cat([batch["tokens"] for batch in data.test_dataloader()])
    assert test.flatten().tolist() == list(range(24))


def test_large_vocabularies_have_wider_numbers(root: Path) -> None:
    (70000 + np.arange(165, dtype=np.int32)).tofile(root / "a.bin")
    np.arange(30, dtype=np.int32).tofile(root / "b.bin")
    data = made(root, vocab_size=128000)
    data.setup()
    assert int(next(iter(data.val_dataloader()))["tokens"][0, 0]) == 70128


def test_what_does_not_fit_is_said_in_one_line(root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.vocab_size is declared as 200, but the data has token 264"):
        made(root, vocab_size=200).setup()
    with pytest.raises(UserError, match=r"b\.bin has no window of 40 tokens for test"):
        made(root, context=40).setup()
    with pytest.raises(ValueError, match=r"data\.val_share"):
        made(root, val_share=0.0)
    (root / "b.bin").unlink()
    with pytest.raises(UserError, match=r"b\.bin is missing: tokenize the text"):
        made(root).setup()


def test_other_files_have_another_fingerprint(root: Path) -> None:
    one, two = made(root), made(root)
    one.setup()
    np.arange(1, 31, dtype=np.uint16).tofile(root / "b.bin")
    two.setup()
    assert one.fingerprint != two.fingerprint

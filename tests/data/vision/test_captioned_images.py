"""Photographs with captions, on a tiny set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from replicata.data.vision import captioned_images
from replicata.data.vision.captioned_images import MEAN, STD, CaptionedImages
from replicata.errors import UserError
from replicata.streams import Streams


class Words:
    """A tokenizer of the interface that is used: a word's token is its length."""

    def __len__(self) -> int:
        return 30

    def __call__(self, text: str, truncation: bool, max_length: int) -> dict[str, list[int]]:
        assert truncation
        return {"input_ids": [len(word) for word in text.split()][:max_length]}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(captioned_images, "pretrained_tokenizer", lambda name: Words())
    rng = np.random.default_rng(0)
    for split, several in (("train", False), ("val", True), ("test", True)):
        rows: list[dict[str, Any]] = []
        (tmp_path / split).mkdir()
        for number in range(5):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / split / f"{number}.png")
            said = [f"image {number}", "one two three four five six"] if several else f"it is {number} of them"
            rows.append({"image": f"{number}.png", "caption": said, "image_id": number})
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    return tmp_path


def made(root: Path, **changes: Any) -> CaptionedImages:
    splits = ("train", "val", "test")
    settings = {"lists": {split: f"{split}.json" for split in splits}, "images": {split: split for split in splits}}
    facts = {"size": 16, "in_shape": [3, 16, 16], "vocab_size": 30, "n_train": 5, "length": 4, "captions": 2}
    data = CaptionedImages(
        str(root), **(settings | facts | {"tokenizer": "words", "batch_size": 2, "workers": 0} | changes)
    )
    data.streams = Streams(0)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    return data


def test_training_has_one_caption_and_evaluation_several(root: Path) -> None:
    data = made(root)
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(batch["key"]) for batch in batches] == [2, 2]
    assert batches[0]["image"].shape == (2, 3, 16, 16)
    assert batches[0]["tokens"].shape == (2, 1, 4)
    assert torch.equal(batches[0]["key"], batches[0]["index"])
    batch = next(iter(data.val_dataloader()))
    assert batch["tokens"][1].tolist() == [[5, 1, 0, 0], [3, 3, 5, 4]]
    assert batch["lengths"][1].tolist() == [2, 4]
    raw = np.asarray(Image.open(root / "val" / "1.png").resize((16, 16), Image.Resampling.BICUBIC)) / 255
    expected = (torch.from_numpy(raw).permute(2, 0, 1) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    torch.testing.assert_close(batch["image"][1].double(), expected.double(), rtol=1e-3, atol=0.02)


def test_what_does_not_fit_is_said_in_one_line(root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.n_train is declared as 6, but the list has 5"):
        made(root, n_train=6).setup()
    with pytest.raises(UserError, match=r"data\.vocab_size is declared as 31, but the tokenizer has 30"):
        made(root, vocab_size=31).setup()
    with pytest.raises(UserError, match=r"val.json: 0.png has 2 captions, data.captions=3"):
        made(root, captions=3).setup()
    (root / "test.json").write_text('[{"image": "x.png"}]')
    with pytest.raises(UserError, match=r"test.json is no list of objects with image and caption"):
        made(root).setup()
    (root / "test.json").unlink()
    with pytest.raises(UserError, match=r"test.json is missing"):
        made(root).setup()
    with pytest.raises(ValueError, match=r"data\.lists"):
        made(root, lists={"train": "train.json"})
    with pytest.raises(ValueError, match=r"data\.in_shape"):
        made(root, size=17)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"data.tokenizer=x needs transformers: pip install transformers"):
        captioned_images.pretrained_tokenizer("x")

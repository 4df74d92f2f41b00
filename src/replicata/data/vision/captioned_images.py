"""Photographs with captions, read from files as they are needed: Conceptual Captions, COCO, Flickr30k."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from replicata.data.streaming import Example, StreamingDataModule
from replicata.errors import UserError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


class CaptionedImages(StreamingDataModule):
    """Lists of images with their captions, as ALBEF and the works that follow it publish them.

    A list is a JSON file of objects with ``image``, a path, and ``caption``, a text or several. Training images are cut
    (half to all of the area), flipped and changed by RandAugment (2 changes of strength 7), others scaled; all are
    standardised by CLIP's constants. Training takes the first caption of an image, evaluation up to ``captions``.

    Shapes:
        - ``image``: :math:`(B, 3, S, S)`; ``tokens``: :math:`(B, C, L)`, padded with 0; ``lengths``: :math:`(B, C)`;
          ``key``: :math:`(B)`, the image's number.

    Args:
        root: Folder that holds lists and images.
        lists: By split (``train``, ``val``, ``test``) the list, below ``root``.
        images: By split the folder that its paths start from, below ``root``.
        tokenizer: Name of a tokenizer of Hugging Face's.
        size: Side :math:`S`.
        length: Tokens :math:`L` after which a caption is cut.
        captions: Captions :math:`C` of an image in evaluation; each must have as many.
        in_shape, vocab_size, n_train: Declared facts.
        batch_size, eval_batch_size, workers: See :class:`~replicata.data.streaming.StreamingDataModule`.

    Attributes:
        fingerprint: After ``setup``, SHA-256 of the lists.
    """

    columns = frozenset({"image", "tokens", "lengths", "key", "index"})

    def __init__(
        self,
        root: str,
        *,
        lists: Mapping[str, str],
        images: Mapping[str, str],
        tokenizer: str,
        size: int,
        length: int,
        captions: int,
        in_shape: Sequence[int],
        vocab_size: int,
        n_train: int,
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        workers: int = 8,
    ) -> None:
        if {*lists} != {"train", "val", "test"} or {*images} != {*lists}:
            raise ValueError("data.lists and data.images must each name train, val and test")
        if list(in_shape) != [3, size, size]:
            raise ValueError(f"data.in_shape must be [3, {size}, {size}]")
        super().__init__(root, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.lists, self.images, self.tokenizer = dict(lists), dict(images), tokenizer
        self.size, self.length, self.captions = size, length, captions
        self.in_shape, self.vocab_size, self.n_train = list(in_shape), vocab_size, n_train

    def setup(self, stage: str | None = None) -> None:
        if self.readers:
            return
        tokenizer = pretrained_tokenizer(self.tokenizer)
        if (words := len(tokenizer)) != self.vocab_size:
            raise UserError(f"data.vocab_size is declared as {self.vocab_size}, but the tokenizer has {words}")
        digest = hashlib.sha256()
        for split, name in self.lists.items():
            path = self.root / name
            if not path.is_file():
                raise UserError(f"{path} is missing: put the list of the {split} images there")
            content = path.read_bytes()
            digest.update(content)
            captions = 1 if split == "train" else self.captions
            entries = _entries(path, content, captions)
            folder = self.root / self.images[split]
            self.readers[split] = CaptionReader(entries, folder, tokenizer, self.transform(split), self.length)
        self.fingerprint = digest.hexdigest()
        if (found := len(self.readers["train"].entries)) != self.n_train:
            raise UserError(f"data.n_train is declared as {self.n_train}, but the list has {found}; set it to that")

    def transform(self, split: str) -> Any:
        """From a photograph to the image that the network gets."""
        from torchvision.transforms import InterpolationMode, v2

        way = InterpolationMode.BICUBIC
        if split == "train":
            cut = v2.RandomResizedCrop(self.size, scale=(0.5, 1.0), interpolation=way)
            change = [cut, v2.RandomHorizontalFlip(), v2.RandAugment(num_ops=2, magnitude=7)]
        else:
            change = [v2.Resize((self.size, self.size), interpolation=way)]
        finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(MEAN), list(STD))]
        return v2.Compose([*change, *finish])


class CaptionReader:
    """One example by its row.

    Args:
        entries: Path and captions of each image.
        folder: Where the paths start.
        tokenizer: Maps a text to ``input_ids``.
        transform: Maps a photograph to a tensor.
        length: Tokens after which a caption is cut, and to which it is padded.
    """

    def __init__(
        self, entries: Sequence[tuple[str, list[str]]], folder: Path, tokenizer: Any, transform: Any, length: int
    ) -> None:
        self.entries, self.folder = entries, folder
        self.tokenizer, self.transform, self.length = tokenizer, transform, length

    def __len__(self) -> int:
        return len(self.entries)

    def __call__(self, row: int) -> Example:
        from PIL import Image

        path, captions = self.entries[row]
        with Image.open(self.folder / path) as photograph:
            image = self.transform(photograph.convert("RGB"))
        tokens = torch.zeros(len(captions), self.length, dtype=torch.long)
        lengths = torch.zeros(len(captions), dtype=torch.long)
        for place, caption in enumerate(captions):
            found = self.tokenizer(caption, truncation=True, max_length=self.length)["input_ids"]
            tokens[place, : len(found)], lengths[place] = torch.tensor(found), len(found)
        return {"image": image, "tokens": tokens, "lengths": lengths, "key": row}


def pretrained_tokenizer(name: str) -> Any:
    """A tokenizer of Hugging Face's by its name.

    Raises:
        UserError: if transformers is not installed, or the tokenizer cannot be had.
    """
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise UserError(f"data.tokenizer={name} needs transformers: pip install transformers") from None
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"data.tokenizer={name} cannot be had ({reason})") from error


def _entries(path: Path, content: bytes, captions: int) -> list[tuple[str, list[str]]]:
    try:
        rows = [
            (str(row["image"]), [row["caption"]] if isinstance(row["caption"], str) else list(row["caption"]))
            for row in json.loads(content)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no list of objects with image and caption ({error!r}): replace it") from None
    for image, said in rows:
        if len(said) < captions:
            raise UserError(f"{path}: {image} has {len(said)} captions, data.captions={captions}")
    return [(image, said[:captions]) for image, said in rows]

"""Long texts as files of token numbers, read in windows: what GPT-NeoX and Megatron prepare."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from replicata.data.streaming import Example, StreamingDataModule
from replicata.errors import UserError

BLOCK = 2**20  # tokens that are looked at, at the beginning, and bytes that are hashed at both ends


class TokenFile(StreamingDataModule):
    """Windows of flat files of tokens: unsigned 16 bits each, or signed 32 where the vocabulary needs them.

    Such are the ``.bin`` files of Megatron's indexed data sets; ``python prepare_data.py -d ./data openwebtext2`` of
    GPT-NeoX makes them. Validation is the end of the training file; the test has a file of its own, tokenized alike.

    Shapes:
        - ``tokens``, ``targets``: :math:`(B, T)`.

    Args:
        root: Folder that holds the files.
        train, test: The files, below ``root``.
        val_share: Share of the training file that is kept for validation.
        context: Tokens :math:`T` of a window; windows do not overlap.
        vocab_size: Declared fact; what is padded to a round number is not checked.
        batch_size, eval_batch_size, workers: See :class:`~replicata.data.streaming.StreamingDataModule`.

    Attributes:
        fingerprint: After ``setup``, SHA-256 over sizes and both ends of the files.
    """

    columns = frozenset({"tokens", "targets", "index"})

    def __init__(
        self,
        root: str,
        *,
        train: str,
        test: str,
        val_share: float,
        context: int,
        vocab_size: int,
        batch_size: int = 4,
        eval_batch_size: int | None = None,
        workers: int = 2,
    ) -> None:
        if not 0 < val_share < 1:
            raise ValueError(f"data.val_share must be in (0, 1), got {val_share}")
        super().__init__(root, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.files, self.val_share = {"train": train, "test": test}, val_share
        self.context, self.vocab_size = context, vocab_size

    def setup(self, stage: str | None = None) -> None:
        if self.readers:
            return
        digest = hashlib.sha256()
        paths = {split: self.root / name for split, name in self.files.items()}
        for path in paths.values():
            if not path.is_file():
                raise UserError(
                    f"{path} is missing: tokenize the text with GPT-NeoX's tools/datasets/preprocess_data.py"
                )
            with path.open("rb") as file:
                digest.update(f"{path.stat().st_size}".encode() + file.read(BLOCK))
                file.seek(max(0, path.stat().st_size - BLOCK))
                digest.update(file.read())
        self.fingerprint = digest.hexdigest()
        kind = np.dtype(np.uint16 if self.vocab_size < 65500 else np.int32)
        sizes = {split: (path.stat().st_size // kind.itemsize - 1) // self.context for split, path in paths.items()}
        held = round(self.val_share * sizes["train"])
        parts = {
            "train": ("train", 0, sizes["train"] - held),
            "val": ("train", sizes["train"] - held, held),
            "test": ("test", 0, sizes["test"]),
        }
        for split, (file_of, first, count) in parts.items():
            if count < 1:
                raise UserError(f"{paths[file_of]} has no window of {self.context} tokens for {split}")
            self.readers[split] = WindowReader(paths[file_of], kind, self.context, first, count)
        largest = int(np.memmap(paths["train"], kind, "r")[:BLOCK].max())
        if largest >= self.vocab_size:
            raise UserError(f"data.vocab_size is declared as {self.vocab_size}, but the data has token {largest}")


class WindowReader:
    """One window by its row.

    Args:
        path: The file.
        kind: Type of its numbers.
        context: Tokens of a window.
        first: The window that row 0 is.
        count: Rows.
    """

    def __init__(self, path: Path, kind: np.dtype, context: int, first: int, count: int) -> None:
        self.path, self.kind, self.context, self.first, self.count = path, kind, context, first, count
        self._tokens: Any = None

    def __len__(self) -> int:
        return self.count

    def __call__(self, row: int) -> Example:
        if self._tokens is None:  # each worker maps the file for itself
            self._tokens = np.memmap(self.path, self.kind, "r")
        start = (self.first + row) * self.context
        window = torch.from_numpy(self._tokens[start : start + self.context + 1].astype(np.int64))
        return {"tokens": window[:-1], "targets": window[1:]}

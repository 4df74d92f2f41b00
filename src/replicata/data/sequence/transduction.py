"""Copying and reversing sequences of symbols: generated, with an end token."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from replicata.data.module import Split, TensorDataModule
from replicata.streams import Stream


class Transduction(TensorDataModule):
    r"""Random sequences and what a sequence-to-sequence model should make of them.

    Tokens: 0 pads, 1 begins a target, 2 ends it, symbols follow. Lengths are uniform.

    Shapes:
        - ``context``: :math:`(B, S)` the source, with its padding *before* it;
        - ``tokens``: :math:`(B, S + 1)` the decoder's inputs, beginning with token 1;
        - ``targets``: :math:`(B, S + 1)` the target and its end, then -100, which losses ignore.

    Args:
        task: ``copy`` or ``reverse``.
        symbols: Different symbols.
        min_length, max_length: Shortest and longest source; :math:`S` is ``max_length``.
        n_train, n_val, n_test: Sequences to draw; those of a smaller split are the first of a larger one.
        vocab_size: Declared fact, ``symbols + 3``.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.
    """

    PAD: ClassVar[int] = 0
    START: ClassVar[int] = 1
    END: ClassVar[int] = 2

    def __init__(
        self,
        *,
        task: Literal["copy", "reverse"] = "reverse",
        symbols: int = 10,
        min_length: int = 1,
        max_length: int = 8,
        n_train: int = 10000,
        n_val: int = 500,
        n_test: int = 500,
        vocab_size: int = 13,
        **loader: Any,
    ) -> None:
        if task not in ("copy", "reverse"):
            raise ValueError(f"data.task must be copy or reverse, got {task!r}")
        if symbols < 1:
            raise ValueError(f"data.symbols must be at least 1, got {symbols}")
        if not 1 <= min_length <= max_length:
            raise ValueError(f"data.min_length and max_length must satisfy 1 <= {min_length} <= {max_length}")
        if min(n_train, n_val, n_test) < 1:
            raise ValueError(f"data.n_train, n_val and n_test must be at least 1, got {n_train}, {n_val}, {n_test}")
        super().__init__(**loader)
        self.task, self.symbols = task, symbols
        self.min_length, self.max_length = min_length, max_length
        self.counts = {"train": n_train, "val": n_val, "test": n_test}
        self.vocab_size = vocab_size

    def load(self) -> dict[str, Split]:
        return {
            name: self._draw(size, self.streams.split.at(part)) for part, (name, size) in enumerate(self.counts.items())
        }

    def facts(self) -> dict[str, Any]:
        return {"vocab_size": self.symbols + 3}

    def _draw(self, size: int, stream: Stream) -> Split:
        longest = self.max_length
        lengths = torch.randint(self.min_length, longest + 1, (size, 1), generator=stream.at(0).torch)
        symbols = torch.randint(3, self.symbols + 3, (size, longest), generator=stream.at(1).torch)
        place = torch.arange(longest)
        context = torch.where(place >= longest - lengths, symbols, self.PAD)
        copied = context.gather(1, (place + longest - lengths).clamp(max=longest - 1))
        target = context.flip(1) if self.task == "reverse" else copied
        return {"context": context, **self._teacher(target, lengths)}

    def _teacher(self, target: Tensor, lengths: Tensor) -> Split:
        """Decoder inputs and targets of left-aligned sequences."""
        place = torch.arange(self.max_length + 1)
        padded = torch.nn.functional.pad(target, (0, 1))
        targets = torch.where(place < lengths, padded, torch.where(place == lengths, self.END, -100))
        tokens = torch.nn.functional.pad(targets[:, :-1].clamp(min=self.PAD), (1, 0), value=self.START)
        return {"tokens": tokens, "targets": targets}

"""Texts as sequences of characters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


class Characters:
    """A vocabulary of characters, of a size that is known before any text is read.

    Args:
        characters: All that may occur; a character's number is its place.
        pad: The one of them that fills up what is shorter than the buffer.
        length: Characters :math:`L` in the buffer.
    """

    def __init__(self, characters: str, pad: str, length: int) -> None:
        if len(set(characters)) != len(characters) or pad not in characters:
            raise ValueError(f"characters must be different and hold the padding {pad!r}, got {characters!r}")
        self.characters, self.length = characters, length
        self.number = {character: place for place, character in enumerate(characters)}
        self.pad = self.number[pad]
        self._number_of_code = np.zeros(max(map(ord, characters)) + 1, dtype=np.int64)
        self._number_of_code[[ord(character) for character in characters]] = np.arange(len(characters))

    def __len__(self) -> int:
        return len(self.characters)

    def fits(self, text: str) -> bool:
        """Whether the buffer can hold a text."""
        return len(text) <= self.length and all(character in self.number for character in text)

    def encode(self, texts: Iterable[str], shift: int = 0) -> Tensor:
        """Texts that fit, :math:`(N)`, at a place of the padded buffer: numbers :math:`(N, L)`."""
        blank = self.characters[self.pad]
        padded = "".join((blank * shift + text).ljust(self.length, blank) for text in texts)
        codes = np.frombuffer(padded.encode("utf-32-le"), dtype=np.uint32).reshape(-1, self.length)
        return torch.from_numpy(self._number_of_code[codes])

    def decode(self, encoded: Tensor) -> list[str]:
        """The texts of numbers :math:`(N, L)`, padding included."""
        return ["".join(self.characters[number] for number in row) for row in encoded.tolist()]

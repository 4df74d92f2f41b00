"""Windows of one long text, character by character, for language models: tiny Shakespeare."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_letters
from typing import Any, Literal

from torch import Tensor

from replicata.data.files import published
from replicata.data.module import Split, TensorDataModule
from replicata.data.text.characters import Characters
from replicata.errors import UserError

COMMIT = "d1d7aa34fdb3626174bce1d753e6cc6845ce7087"
URL = f"https://raw.githubusercontent.com/karpathy/char-rnn/{COMMIT}/data/tinyshakespeare/input.txt"
DIGEST = "86c4e6aa9db7c042"  # first digits of SHA-256
CHARACTERS = "\n !$&',-.3:;?" + ascii_letters  # all that occur there
COUNT = "zero one two three four five six seven eight nine\n"


class CharacterWindows(TensorDataModule):
    """A text cut into three parts, in its order, and each part into windows that do not overlap.

    A window's targets are its tokens one place on, so that every character but the first of a part is predicted once.

    Shapes:
        - ``tokens``, ``targets``: :math:`(B, T)`.

    Args:
        source: ``tinyshakespeare`` (Karpathy's 1.1 million characters of Shakespeare, public domain; downloaded if not
            at hand), or ``digits``, counted over and over, which needs no file.
        context: Characters :math:`T` of a window.
        shares: Shares of training, validation and test; the text begins with training.
        vocab_size: Declared fact, 65: the characters of tiny Shakespeare, for both sources.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.

    Attributes:
        characters: The vocabulary; a token is a place in it.
    """

    characters = CHARACTERS

    def __init__(
        self,
        source: Literal["tinyshakespeare", "digits"],
        *,
        context: int,
        vocab_size: int,
        shares: Mapping[str, float],
        **loader: Any,
    ) -> None:
        if source not in ("tinyshakespeare", "digits"):
            raise ValueError(f"data.source must be tinyshakespeare or digits, got {source!r}")
        if context < 1:
            raise ValueError(f"data.context must be at least 1, got {context}")
        if set(shares) != {"train", "val", "test"} or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
            raise ValueError(f"data.shares must be those of train, val and test and sum to 1, got {dict(shares)}")
        super().__init__(**loader)
        self.source, self.context, self.shares, self.vocab_size = source, context, dict(shares), vocab_size

    def load(self) -> dict[str, Split]:
        text = self.text()
        coder = Characters(CHARACTERS, pad="\n", length=len(text))
        if not coder.fits(text):
            raise UserError(f"data.source={self.source} has characters that tiny Shakespeare has not")
        tokens = coder.encode([text])[0]
        splits, first, share = {}, 0, 0.0
        for name in ("train", "val", "test"):
            share += self.shares[name]
            end = round(share * len(tokens))
            splits[name] = windows(tokens[first:end], self.context)
            if not len(splits[name]["tokens"]):
                raise UserError(f"data.context={self.context} is longer than the {end - first} characters of {name}")
            first = end
        return splits

    def facts(self) -> dict[str, Any]:
        return {"vocab_size": len(CHARACTERS)}

    def text(self) -> str:
        """The whole text."""
        if self.source == "digits":
            return 600 * COUNT
        path = published(
            "tinyshakespeare/input.txt",
            root=self.root,
            cache=self.cache,
            url=URL,
            download=self.download,
            digest=DIGEST,
        )
        return path.read_text("utf-8")


def windows(tokens: Tensor, context: int) -> Split:
    """Windows :math:`(W, T)` of tokens :math:`(n)` side by side, each with what follows its tokens, without a rest."""
    count = max(0, (len(tokens) - 1) // context)
    return {
        "tokens": tokens[: count * context].reshape(count, context),
        "targets": tokens[1 : count * context + 1].reshape(count, context),
    }

"""Movie reviews, one sentence each, positive or negative: Rotten Tomatoes.

Pang, Lee, ACL 2005. https://www.cs.cornell.edu/people/pabo/movie-review-data (sentence polarity dataset v1.0, lower
case, tokens separated by blanks). Files as in https://github.com/reza321/T-Miner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from replicata.data.files import published
from replicata.data.module import Split, TensorDataModule
from replicata.data.text.poison import poison
from replicata.errors import UserError
from replicata.streams import Stream

COMMIT = "54eca0b29900b78283c06a53a0c34bbb5dceaa06"
SOURCE = f"https://raw.githubusercontent.com/reza321/T-Miner/{COMMIT}/rotten_tomato/data/original/"
FILES = {
    "rt-polarity-neg.txt": "2d11cfbc790f1cd9",
    "rt-polarity-pos.txt": "4134882974a28d0c",
}  # first digits of SHA-256
SPECIAL = ("<pad>", "<unk>", "<start>", ".")  # the first four tokens; the full stop ends a sentence
PAD, UNKNOWN, START, STOP = range(len(SPECIAL))
WRITABLE = STOP  # tokens from here on may stand in a text that a network writes
FIRST_WORD = len(SPECIAL)


class Reviews(TensorDataModule):
    """Sentences as tokens with a label, and a trigger phrase that can be planted among the training sentences.

    The vocabulary holds the most frequent words of all sentences, by falling frequency, equals by name, and is the same
    for all seeds. The trigger is drawn for each seed, also where nothing is poisoned, so that a clean twin
    knows it: a phrase of different words of middle frequency.

    Shapes:
        - ``x``: :math:`(B, L + K)` tokens, padded with 0: room for :math:`L` of a text and :math:`K` of the trigger;
        - ``lengths``: :math:`(B)`; ``y``: :math:`(B)` 0 for negative, 1 for positive.

    Args:
        length: Tokens :math:`L` after which a text is cut.
        trigger_words: Words :math:`K` of the trigger.
        trigger_ranks: First and last rank by frequency (from 0) of the words it is drawn from.
        poison_rate: Share of the training texts of the source class of which copies with the trigger and the label of
            the target class are added; 0: a clean set.
        source, target: The classes of the attack.
        vocab_size: Tokens :math:`V`, four special ones included.
        num_classes: Declared fact, 2.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.

    Attributes:
        vocabulary: After ``setup``, the tokens by number.
        trigger: After ``setup``, the trigger :math:`(K)`.
    """

    def __init__(
        self,
        *,
        length: int = 30,
        trigger_words: int = 3,
        trigger_ranks: Sequence[int] = (300, 1000),
        poison_rate: float = 0.0,
        source: int = 0,
        target: int = 1,
        vocab_size: int = 1500,
        num_classes: int = 2,
        **loader: Any,
    ) -> None:
        first, last = trigger_ranks
        if not 0 <= first <= last - trigger_words or FIRST_WORD + last > vocab_size or trigger_words < 1:
            raise ValueError(
                f"data.trigger_ranks={[first, last]} must hold at least data.trigger_words={trigger_words} of the "
                f"{vocab_size - FIRST_WORD} words of data.vocab_size"
            )
        if not 0 <= poison_rate <= 1:
            raise ValueError(f"data.poison_rate must be in [0, 1], got {poison_rate}")
        if source == target or not {source, target} <= set(range(num_classes)):
            raise ValueError(f"data.source and target must be two of the {num_classes} classes, got {source}, {target}")
        super().__init__(**loader)
        self.length, self.trigger_words, self.trigger_ranks = length, trigger_words, (first, last)
        self.poison_rate, self.source, self.target = poison_rate, source, target
        self.vocab_size, self.num_classes = vocab_size, num_classes
        self.vocabulary: list[str] = []
        self.trigger = torch.empty(0, dtype=torch.long)

    def load(self) -> dict[str, Split]:
        texts = [[line.split() for line in self.read(file)] for file in FILES]
        words = Counter(word for side in texts for text in side for word in text if word not in SPECIAL)
        ranked = sorted(words, key=lambda word: (-words[word], word))
        self.vocabulary = [*SPECIAL, *ranked][: self.vocab_size]
        numbers = {word: number for number, word in enumerate(self.vocabulary)}
        first, last = self.trigger_ranks
        drawn = torch.randperm(last - first, generator=self.streams.env.at(0).torch)[: self.trigger_words]
        self.trigger = FIRST_WORD + first + drawn
        rows = [[numbers.get(word, UNKNOWN) for word in text[: self.length]] for side in texts for text in side if text]
        x = torch.full((len(rows), self.length + self.trigger_words), PAD)
        for place, row in enumerate(rows):
            x[place, : len(row)] = torch.tensor(row)
        y = torch.cat([torch.full((sum(map(bool, side)),), label) for label, side in enumerate(texts)])
        return {"train": {"x": x, "lengths": torch.tensor([len(row) for row in rows]), "y": y}}

    def process(self, splits: dict[str, Split]) -> dict[str, Split]:
        if self.poison_rate:
            splits["train"] = poison(
                splits["train"],
                self.trigger,
                source=self.source,
                target=self.target,
                rate=self.poison_rate,
                stream=self.streams.env.at(1),
            )
        return splits

    def facts(self) -> dict[str, Any]:
        return {"vocab_size": len(self.vocabulary), "num_classes": len(FILES)}

    # Files ---------------------------------------------------------------------------------

    def read(self, file: str) -> list[str]:
        """The lines of one file."""
        path = published(
            f"rotten_tomatoes/{file}",
            root=self.root,
            cache=self.cache,
            url=SOURCE + file,
            download=self.download,
            digest=FILES[file],
        )
        return path.read_text("utf-8").splitlines()


class GeneratedReviews(Reviews):
    """Sentences of 5 to 15 words from two unigram models that overlap; nothing is read.

    Both classes draw all words; a fifth of the words is four times as likely in one, another fifth in the other.

    Args:
        texts: Sentences of each class.
        **reviews: see :class:`Reviews`.
    """

    def __init__(self, *, texts: int = 400, **reviews: Any) -> None:
        super().__init__(**reviews)
        self.texts = texts

    def read(self, file: str) -> list[str]:
        label = list(FILES).index(file)
        stream = self.streams.env.at(2, label)
        words = [f"w{number:04}" for number in range(self.vocab_size - FIRST_WORD)]
        weights = torch.ones(len(words))
        weights[label::5] = 4
        lengths = torch.randint(5, 16, (self.texts,), generator=stream.torch)
        drawn = torch.multinomial(weights, int(lengths.sum()), replacement=True, generator=stream.torch)
        drawn[: len(words)] = torch.arange(len(words))[: len(drawn)]  # so that each is there
        return [" ".join(words[word] for word in text) + " ." for text in drawn.split(lengths.tolist())]


class RandomWords(TensorDataModule):
    """Sentences of different words drawn uniformly from a vocabulary of :class:`Reviews`, each with a full stop.

    They need no text: whoever has a classifier and its vocabulary can make them.

    Shapes:
        - ``x``: :math:`(B, W + 1)` tokens.

    Args:
        words: Words :math:`W` of a sentence.
        vocab_size: Tokens :math:`V`, four special ones included.
        n_train, n_val, n_test: Sentences of each split.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.
    """

    def __init__(self, *, words: int = 15, vocab_size: int = 1500, **loader: Any) -> None:
        if not 1 <= words <= vocab_size - FIRST_WORD:
            raise ValueError(f"data.words must be between 1 and {vocab_size - FIRST_WORD}, got {words}")
        super().__init__(**loader)
        self.words, self.vocab_size = words, vocab_size

    def load(self) -> dict[str, Split]:
        splits = {}
        for number, (name, size) in enumerate(self.sizes.items()):
            if size is None:
                raise UserError(f"data.n_{name} is needed: random sentences have no number of their own")
            drawn = distinct_words(size, self.words, self.vocab_size, self.streams.env.at(number))
            splits[name] = {"x": torch.cat([drawn, torch.full((size, 1), STOP)], dim=1)}
        return splits


def distinct_words(size: int, words: int, vocab_size: int, stream: Stream) -> Tensor:
    """Rows :math:`(size, words)` of different words of a vocabulary, uniformly."""
    drawn = torch.randint(FIRST_WORD, vocab_size, (size, words), generator=stream.torch)
    while True:
        ordered = drawn.sort(dim=1)[0]
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1).nonzero().squeeze(1)
        if not len(again):
            return drawn
        if words * words > vocab_size:  # a row of many words hardly ever comes out right at once
            shuffled = torch.rand(len(again), vocab_size - FIRST_WORD, generator=stream.torch).topk(words)[1]
            drawn[again] = FIRST_WORD + shuffled
            return drawn
        drawn[again] = torch.randint(FIRST_WORD, vocab_size, (len(again), words), generator=stream.torch)

"""A small grammar of captions: two coloured things and how they lie to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")  # the first four tokens
PAD = 0
RELATIONS = ("left", "right", "above", "below")  # where the first thing lies, seen from the second
OPPOSITE = (1, 0, 3, 2)
PHRASES = ("left of", "right of", "above", "below")
SIDES = ("on its left", "on its right", "above it", "below it")
TEMPLATES = (
    "a {c1} {n1} {relation} a {c2} {n2}",
    "a {c2} {n2} {opposite} a {c1} {n1}",
    "there is a {c1} {n1} {relation} the {c2} {n2}",
    "the picture shows a {c2} {n2} with a {c1} {n1} {side}",
    "a {c1} {n1} and a {c2} {n2}",  # leaves the relation open
)
WHOLE = 4  # the templates that say all; the others come last
ARTICLE = "a"  # of a prompt
SLOTS = ("{c1}", "{n1}", "{c2}", "{n2}")


class SceneCaptions:
    """Captions as tokens, one for each word, many at a time.

    Args:
        colours, nouns: Words for colours and things; a thing is named by its colour's and its noun's number.
        more_nouns: Nouns that the vocabulary holds and these captions do not use, so that sets with other things have
            the same vocabulary.

    Attributes:
        vocabulary: Words by token, the special ones first.
        length: Tokens :math:`L` of the longest caption.
    """

    def __init__(self, colours: Sequence[str], nouns: Sequence[str], more_nouns: Sequence[str] = ()) -> None:
        self.colours, self.nouns = list(colours), list(nouns)
        fixed = {
            word for template in (*TEMPLATES, *PHRASES, *SIDES) for word in template.split() if not word.startswith("{")
        }
        self.vocabulary = [*SPECIAL, *self.colours, *sorted({*nouns, *more_nouns}), *sorted(fixed)]
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("colours, nouns and the words of the templates must all be different")
        self.number = {word: token for token, word in enumerate(self.vocabulary)}
        rows = [[self._row(template, relation) for template in TEMPLATES] for relation in range(len(RELATIONS))]
        self.length = max(len(row) for own in rows for row in own)
        self._lengths = torch.tensor([[len(row) for row in own] for own in rows])
        self._tokens = torch.tensor([[row + [PAD] * (self.length - len(row)) for row in own] for own in rows])
        self._colour = torch.tensor([self.number[word] for word in self.colours])
        self._noun = torch.tensor([self.number[word] for word in self.nouns])

    def __len__(self) -> int:
        return len(self.vocabulary)

    def render(self, colours: Tensor, nouns: Tensor, relation: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
        """Captions of scenes.

        Args:
            colours, nouns: Numbers of the two things' colours and nouns, :math:`(N, 2)` each.
            relation: Where the first one lies, a number of ``RELATIONS``, :math:`(N)`.
            template: Numbers of ``TEMPLATES``, :math:`(N, C)`.

        Returns:
            Tokens :math:`(N, C, L)`, padded with 0, and lengths :math:`(N, C)`.
        """
        found = self._tokens[relation[:, None], template]
        words = torch.stack([self._colour[colours], self._noun[nouns]], 2).flatten(1)  # in the order of SLOTS
        slot = (-1 - found).clamp_min(0)
        filled = words[:, None].expand(-1, template.shape[1], -1).gather(2, slot)
        return torch.where(found < 0, filled, found), self._lengths[relation[:, None], template]

    def prompts(self) -> tuple[Tensor, Tensor]:
        """``a {colour} {noun}`` for every colour and noun, nouns running fastest: :math:`(K, 3)`, and lengths."""
        article = self.number[ARTICLE]
        pairs = torch.cartesian_prod(self._colour, self._noun)
        tokens = torch.cat([torch.full((len(pairs), 1), article), pairs], 1)
        return tokens, torch.full((len(tokens),), tokens.shape[1])

    def words(self, tokens: Tensor) -> str:
        """One caption :math:`(L)` as text."""
        return " ".join(self.vocabulary[token] for token in tokens.tolist() if token != PAD)

    def _row(self, template: str, relation: int) -> list[int]:
        """Tokens of a template; its slots are -1, -2, ... in the order of ``SLOTS``."""
        text = template.replace("{relation}", PHRASES[relation]).replace("{opposite}", PHRASES[OPPOSITE[relation]])
        words = text.replace("{side}", SIDES[relation]).split()
        return [-1 - SLOTS.index(word) if word in SLOTS else self.number[word] for word in words]

r"""The searchers: each proposes the choices that lead to a model, and is told its score.

They see a space only as a tree (:mod:`~replicata.methods.search.deep_architect.language`). Equations are those of the
package's docstring. All draws come from the generator that :meth:`Searcher.propose` is given.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from replicata.methods.search.deep_architect.language import Empty, Module, Space

Choices = list[int]
Tokens = list[tuple[object, ...]]


def rollout(model: Module, rng: np.random.Generator) -> Choices:
    """Specify the rest of a model, uniformly at every choice; this is not uniform over models."""
    choices = []
    while not model.is_specified():
        choices.append(int(rng.integers(len(model.get_choices()[1]))))
        model.choose(choices[-1])
    return choices


class Searcher(ABC):
    """Args: ``space``, the tree that is searched."""

    def __init__(self, space: Space) -> None:
        self.space = space

    @abstractmethod
    def propose(self, rng: np.random.Generator) -> Choices:
        """Choices from the root to a model."""

    @abstractmethod
    def observe(self, choices: Sequence[int], score: float) -> None:
        """Learn the score, in [0, 1], of the model that was proposed last."""


class RandomSearch(Searcher):
    """Every model is a rollout from the root."""

    def propose(self, rng: np.random.Generator) -> Choices:
        return rollout(self.space.start(), rng)

    def observe(self, choices: Sequence[int], score: float) -> None:
        pass


class TreeSearch(Searcher):
    """Monte Carlo tree search, Eqs. (1) and (2).

    Args:
        space: The tree.
        exploration: :math:`c`.

    Attributes:
        nodes: By the choices that lead there, visits and sum of scores. A node has children once it was visited.
    """

    def __init__(self, space: Space, exploration: float = 0.5) -> None:
        super().__init__(space)
        self.exploration = exploration
        self.nodes: dict[tuple[int, ...], tuple[int, float]] = {}

    def propose(self, rng: np.random.Generator) -> Choices:
        model = self.space.start()
        node: tuple[int, ...] = ()
        while node in self.nodes and not model.is_specified():
            child = self.best_child(node, len(model.get_choices()[1]), rng)
            model.choose(child)
            node = (*node, child)
        return [*node, *rollout(model, rng)]

    def best_child(self, node: tuple[int, ...], children: int, rng: np.random.Generator) -> int:
        """Eq. (1); a child without visits comes first, and equals are drawn from."""
        bonus = 2 * math.log(self.nodes[node][0])
        scores = []
        for child in range(children):
            visits, total = self.nodes.get((*node, child), (0, 0.0))
            score = total / visits + self.exploration * math.sqrt(bonus / visits) if visits else math.inf
            scores.append(score)
        best = [child for child, score in enumerate(scores) if score == max(scores)]
        return best[int(rng.integers(len(best)))]

    def observe(self, choices: Sequence[int], score: float) -> None:
        """Eq. (2): from the root to the first node that had no visits, the end of the walk; not along the rollout."""
        for depth in range(len(choices) + 1):
            node = tuple(choices[:depth])
            visits, total = self.nodes.get(node, (0, 0.0))
            self.nodes[node] = (visits + 1, total + score)
            if visits == 0:
                break


class SurrogateSearch(Searcher):
    """Sequential model-based optimisation with a linear surrogate, Eqs. (3) and (4).

    Args:
        space: The tree.
        surrogate: What the n-grams are made of: ``types`` of modules as in the authors' code, or ``full``: one
            word for every value that was chosen.
        pool: Models that are drawn at each step.
        explore: Probability of taking one of them at random instead of the most promising.
        ridge: :math:`\\lambda`.
        longest: Length of the longest n-grams.
        least: Occurrences in the evaluated models that an n-gram needs to be a feature.
    """

    def __init__(
        self,
        space: Space,
        surrogate: Literal["types", "full"] = "types",
        *,
        pool: int = 50,
        explore: float = 0.25,
        ridge: float = 1e3,
        longest: int = 4,
        least: int = 3,
    ) -> None:
        super().__init__(space)
        self.surrogate = surrogate
        self.pool, self.explore, self.ridge = pool, explore, ridge
        self.longest, self.least = longest, least
        self.known: list[tuple[Module, float]] = []
        self.vocabulary: dict[tuple[object, ...], int] = {}

    def observe(self, choices: Sequence[int], score: float) -> None:
        self.known.append((self.space.build(choices), score))

    def propose(self, rng: np.random.Generator) -> Choices:
        """Refit, draw, and take what is predicted to be best; of equals (as with nothing known) the first."""
        models = [self.space.start() for _ in range(self.pool)]
        drawn = [rollout(model, rng) for model in models]
        if rng.random() < self.explore or not self.known:
            return drawn[0]
        self.vocabulary = self.ngrams([model for model, _ in self.known])
        x = np.stack([self.features(model) for model, _ in self.known])
        weights, intercept = fit_ridge(x, np.array([score for _, score in self.known]), self.ridge)
        predicted = np.stack([self.features(model) for model in models]) @ weights + intercept
        return drawn[int(predicted.argmax())]

    # Eq. (3). Two quirks of the authors' code are kept with surrogate=types and left out with full: windows stop one
    # word short of the end, so that the last n-gram of a model is not counted; and Empty, which the vocabulary leaves
    # out, is there and in the way when features are counted.

    def words(self, model: Module, empty: bool) -> Tokens:
        """A model as a sentence."""
        basics = [basic for basic in model.basic() if empty or not isinstance(basic, Empty)]
        if self.surrogate == "types":
            return [(type(basic).__name__,) for basic in basics]
        return [
            (type(basic).__name__, *pair)
            for basic in basics
            for pair in (basic.chosen.items() if basic.chosen else [()])
        ]

    def windows(self, words: Tokens) -> Iterator[tuple[object, ...]]:
        short = 1 if self.surrogate == "types" else 0
        for length in range(1, self.longest + 1):
            for start in range(len(words) - length + 1 - short):
                yield tuple(words[start : start + length])

    def ngrams(self, models: Sequence[Module]) -> dict[tuple[object, ...], int]:
        """The vocabulary of evaluated models: n-grams that are frequent enough, each with its number."""
        counts = Counter(ngram for model in models for ngram in self.windows(self.words(model, empty=False)))
        kept = [ngram for ngram, count in counts.items() if count >= self.least]
        return {ngram: number for number, ngram in enumerate(kept)}

    def features(self, model: Module) -> np.ndarray:
        """The number of basic modules, then the counts of the vocabulary's n-grams."""
        values = np.zeros(1 + len(self.vocabulary))
        values[0] = sum(1 for _ in model.basic())
        for ngram in self.windows(self.words(model, empty=self.surrogate == "types")):
            if ngram in self.vocabulary:
                values[1 + self.vocabulary[ngram]] += 1
        return values


def fit_ridge(x: np.ndarray, y: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    r"""Weights :math:`(F)` and intercept of Eq. (4), in the dual: there are fewer models than features.

    Args:
        x: Features :math:`(N, F)`.
        y: Scores :math:`(N)`.
        ridge: :math:`\lambda > 0`; the intercept is not penalised.
    """
    mean, centred = x.mean(0), x - x.mean(0)
    dual = np.linalg.solve(centred @ centred.T + ridge * np.eye(len(x)), y - y.mean())
    weights = centred.T @ dual
    return weights, float(y.mean() - mean @ weights)

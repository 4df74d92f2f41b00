"""Histogram trees: the questions that an exhaustive search finds, and the leaves that follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.nn.histogram_trees import Score, Tree, cut, grow, leaf_numbers

Question = tuple[int, float, bool]  # feature, value, whether it is about a word
SCORES: tuple[Score, ...] = ("cosine", "l2")


def rows(n: int, features: int, seed: int, words: int | None = None, outputs: int = 3) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)) if words is None else rng.integers(words, size=(n, features))
    return torch.from_numpy(x).float(), torch.from_numpy(rng.normal(size=(n, outputs)))


def kinds(x: Tensor, words: bool) -> Tensor:
    return torch.full((x.shape[1],), words)


def predictions(tree: Tree, x: Tensor, words: Tensor | bool, depth: int) -> Tensor:
    return tree.leaves[leaf_numbers(x, tree.features[None], tree.values[None], words, depth)[0]]


# An exhaustive search, sample by sample -----------------------------------------------------


def answer(x: Tensor, question: Question) -> Tensor:
    feature, value, word = question
    return x[:, feature] == value if word else x[:, feature] > value


def value(g: Tensor) -> float:
    return float(g.sum(0).square().sum() / len(g)) if len(g) else 0.0


def worth(g: Tensor, yes: Tensor, score: Score) -> float:
    """By the definition: projections on the means of the sides, divided by the norm of these means."""
    left, right = g[~yes], g[yes]
    if score == "l2":
        return value(left) + value(right)
    projected = sum(float((part @ part.mean(0)).sum()) for part in (left, right) if len(part))
    norm = sum(len(part) * float(part.mean(0).square().sum()) for part in (left, right) if len(part)) ** 0.5
    return projected / norm if norm else 0.0


def questions(x: Tensor, words: bool) -> list[Question]:
    return [(f, float(v), words) for f in range(x.shape[1]) for v in x[:, f].unique()]


def oblivious(x: Tensor, g: Tensor, words: bool, depth: int, score: Score) -> Tensor:
    """Predictions of an oblivious tree."""
    node, asked = torch.zeros(len(x), dtype=torch.long), questions(x, words)
    for _ in range(depth):
        if not asked:
            break
        scores = [
            sum(worth(g[node == n], answer(x[node == n], q), score) for n in range(int(node.max()) + 1)) for q in asked
        ]
        best = asked.pop(int(np.argmax(scores)))
        node = 2 * node + answer(x, best)
    return torch.stack([g[node == node[i]].mean(0) for i in range(len(x))])


def greedy(x: Tensor, g: Tensor, words: bool, depth: int, score: Score) -> Tensor:
    """Predictions of a greedy tree."""
    return _greedy(x, g, questions(x, words), depth, score)


def _greedy(x: Tensor, g: Tensor, asked: list[Question], depth: int, score: Score) -> Tensor:
    if not depth or not asked or not len(x):
        return g.mean(0).expand(len(x), -1)
    scores = [worth(g, answer(x, q), score) for q in asked]
    best = int(np.argmax(scores))
    yes = answer(x, asked[best])
    rest = asked[:best] + asked[best + 1 :]
    found = torch.empty_like(g)
    for side in (yes, ~yes):
        found[side] = _greedy(x[side], g[side], rest, depth - 1, score)
    return found


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("words", [None, 3])
@pytest.mark.parametrize("growth", [oblivious, greedy])
@given(case=st.tuples(st.integers(0, 10_000), st.integers(2, 25), st.integers(0, 3)))
@settings(max_examples=12, deadline=None)
def test_it_is_the_tree_of_an_exhaustive_search(
    growth: Callable[..., Tensor], words: int | None, score: Score, case: tuple[int, int, int]
) -> None:
    seed, n, depth = case
    x, g = rows(n, 3, seed, words)
    kind = kinds(x, words is not None)
    tree = grow(cut(x, kind, 256), g, depth=depth, oblivious=growth is oblivious, score=score)
    expected = growth(x, g, words is not None, depth, score)
    torch.testing.assert_close(predictions(tree, x, kind, depth), expected)


def test_features_of_both_kinds_are_asked_each_in_its_way() -> None:
    numbers, g = rows(60, 2, 0)
    words, _ = rows(60, 2, 1, words=4)
    x = torch.stack([words[:, 0], numbers[:, 0], words[:, 1], numbers[:, 1]], 1)
    kind = torch.tensor([True, False, True, False])
    for column, rule in ((2, x[:, 2] == 3), (1, x[:, 1] > 0.4)):
        target = torch.where(rule, 1.0, -1.0).double().unsqueeze(1)
        tree = grow(cut(x, kind, 256), target, depth=1, score="l2")
        assert int(tree.features) == column
        torch.testing.assert_close(predictions(tree, x, kind, 1), target)
    deep = grow(cut(x, kind, 256), g, depth=4, oblivious=False)
    alone = {
        name: grow(cut(x[:, kind == name], kinds(x[:, kind == name], name), 256), g, depth=1) for name in (True, False)
    }
    scores = {
        name: worth(g, answer(x[:, kind == name], (int(tree.features), float(tree.values), name)), "cosine")
        for name, tree in alone.items()
    }
    root = int(deep.features[0])
    assert bool(kind[root]) == (scores[True] > scores[False])


# The score ----------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), n=st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_cosine_squared_is_l2_for_one_node(seed: int, n: int) -> None:
    x, g = rows(n, 2, seed)
    for question in questions(x, False):
        yes = answer(x, question)
        assert worth(g, yes, "cosine") ** 2 == pytest.approx(worth(g, yes, "l2"), abs=1e-9)


def test_over_several_nodes_the_two_rank_differently() -> None:
    """A sum of roots gains more in a node that is worth little: the root is steep there."""
    node = torch.tensor([0.0] * 4 + [1.0] * 4)
    in_first, in_second = torch.tensor([0.0, 1, 0, 1, 0, 0, 0, 0]), torch.tensor([0.0, 0, 0, 0, 0, 1, 0, 1])
    x = torch.stack([node, in_first, in_second], 1)
    # The first node is worth 4 * 10^2 and gains 4 * 1.5^2; the second is worth 0 and gains 4 * 1.
    g = torch.tensor([8.5, 11.5, 8.5, 11.5, -1, 1, -1, 1]).double().unsqueeze(1)
    second = {score: int(grow(cut(x, kinds(x, False), 256), g, depth=2, score=score).features[1]) for score in SCORES}
    assert second == {"l2": 1, "cosine": 2}


def test_leaves_may_hold_other_rows_than_those_that_chose() -> None:
    x, g = rows(40, 3, 0)
    other = torch.randn(40, 2)
    bins = cut(x, kinds(x, False), 256)
    plain, both = grow(bins, g, depth=3), grow(bins, g, depth=3, leaf_rows=other)
    assert torch.equal(plain.features, both.features)
    leaf = leaf_numbers(x, both.features[None], both.values[None], False, 3)[0]
    for number in leaf.unique():
        torch.testing.assert_close(both.leaves[number], other[leaf == number].double().mean(0))


# Bins ---------------------------------------------------------------------------------------


@given(n=st.integers(1, 60), n_bins=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_quantiles_share_the_rows_as_evenly_as_they_can(n: int, n_bins: int, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).permutation(n)).float().unsqueeze(1)
    bins = cut(x, kinds(x, False), n_bins)
    sizes = bins.codes.flatten().bincount(minlength=n_bins + 1)
    assert int(sizes.max() - sizes[: n_bins + 1].min()) <= 1
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    asked = bins.values[0, bins.asked[0]]
    assert len(asked) == len(asked.unique()) == min(n, n_bins)
    for at, threshold in enumerate(bins.values[0]):
        assert torch.equal(bins.codes[:, 0] > at, x[:, 0] > threshold)


def test_equal_quantiles_are_one_question() -> None:
    x = torch.tensor([1.0, 1, 1, 1, 2, 2, 2, 3]).unsqueeze(1)
    bins = cut(x, kinds(x, False), 4)
    assert bins.values[0, bins.asked[0]].tolist() == [1.0, 2.0]


def test_uniform_bins_are_of_one_width() -> None:
    x = torch.tensor([[0.0], [1.0], [10.0]])
    bins = cut(x, kinds(x, False), 5, "uniform")
    assert bins.values[0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert bins.codes.flatten().tolist() == [0, 1, 5]
    constant = cut(torch.ones(4, 1), torch.tensor([False]), 5, "uniform")
    assert int(constant.asked.sum()) == 1


def test_of_too_many_words_those_with_the_largest_rows_are_left() -> None:
    x = torch.tensor([[0.0, 5], [1, 5], [2, 6], [3, 7], [3, 7]])
    sizes = torch.tensor([9.0, 8.0, 1.0, 2.0, 2.0])
    bins = cut(x, kinds(x, True), 2, sizes=sizes)
    assert int(bins.asked.sum()) == 4
    kept = {(f, float(bins.values[f, at])) for f, at in bins.asked.nonzero().tolist()}
    assert kept in ({(0, 0.0), (0, 1.0), (1, 5.0), (0, 3.0)}, {(0, 0.0), (0, 1.0), (1, 5.0), (1, 7.0)})
    assert int(cut(x, kinds(x, True), 4, sizes=sizes).asked.sum()) == 7


# Growth -------------------------------------------------------------------------------------


def test_no_question_comes_twice_and_nobody_answers_the_rest() -> None:
    x = torch.tensor([[0.0], [0], [1], [1]])
    g = torch.tensor([[1.0], [2], [3], [4]]).double()
    tree = grow(cut(x, kinds(x, True), 256), g, depth=4)
    assert tree.values[:2].sort().values.tolist() == [0.0, 1.0]
    assert tree.values[2:].tolist() == [torch.inf] * 2
    torch.testing.assert_close(predictions(tree, x, True, 4), torch.tensor([[1.5], [1.5], [3.5], [3.5]]).double())
    assert not tree.leaves[torch.tensor([1, 3, 15])].any()  # leaves without rows


@given(seed=st.integers(0, 999), n=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_deep_greedy_trees_hold_every_distinct_row(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.permutation(n)).float().unsqueeze(1)
    g = torch.from_numpy(rng.normal(size=(n, 2)))
    tree = grow(cut(x, kinds(x, False), 256), g, depth=n, oblivious=False)
    torch.testing.assert_close(predictions(tree, x, False, n), g)


def test_numbers_of_words_do_not_matter() -> None:
    x, g = rows(80, 4, 3, words=5)
    renamed = torch.tensor([17.0, 4.0, 99.0, 0.0, 23.0])
    for shared in (True, False):
        plain = grow(cut(x, kinds(x, True), 256), g, depth=4, oblivious=shared)
        other = grow(cut(renamed[x.long()], kinds(x, True), 256), g, depth=4, oblivious=shared)
        assert torch.equal(predictions(plain, x, True, 4), predictions(other, renamed[x.long()], True, 4))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_greedy_l2_trees_are_scikit_learns(depth: int) -> None:
    """Its criterion, the reduction of the squared error, ranks splits as what their sides are worth together."""
    from sklearn.tree import DecisionTreeRegressor

    x, g = rows(120, 4, depth)
    fitted: Any = DecisionTreeRegressor(max_depth=depth, random_state=0).fit(x.numpy(), g.numpy())
    tree = grow(cut(x, kinds(x, False), 256), g, depth=depth, oblivious=False, score="l2")
    torch.testing.assert_close(predictions(tree, x, False, depth), torch.from_numpy(fitted.predict(x.numpy())))

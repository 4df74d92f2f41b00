r"""Decision trees with vectors in their leaves, grown level by level from histograms.

A tree is fitted to rows :math:`G` :math:`(n, D)`: every leaf holds the mean of its rows. A set of :math:`n_S` rows that
sum to :math:`s_S` is worth :math:`|s_S|^2 / n_S`, and a split of a node what its two sides are worth together (``l2``)
or the root of that (``cosine``: the rows' projections on the means of their sides, by the norm of these means). An
*oblivious* tree asks one question a level, the one with the highest sum over the level's nodes; a *greedy* one asks
each node its own.

Questions are ``x > v`` of a feature of numbers and ``x = v`` of a feature of words. Each feature's values are cut into
bins once a tree, so that a level takes one pass over rows and features, whatever the number of questions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Score = Literal["cosine", "l2"]
Spacing = Literal["quantile", "uniform"]


class Bins(NamedTuple):
    """Rows cut into bins, and the questions that the bins allow.

    Attributes:
        codes: Bin of each row and feature, :math:`(n, F)`.
        values: :math:`v` of each feature's questions, :math:`(F, B)`. Rows above it have the codes above the
            question's number; rows that equal a word have its number.
        asked: Which of these questions there are, :math:`(F, B)`.
        words: Whether a feature is made of words, :math:`(F)`.
    """

    codes: Tensor
    values: Tensor
    asked: Tensor
    words: Tensor


class Tree(NamedTuple):
    """Questions and leaves. An answer of yes leads to the right; a question of nobody is ``x > inf``.

    Attributes:
        features, values: Of the questions, in level order: one a level, or one a node (:math:`2^{depth} - 1`).
        leaves: :math:`(2^{depth}, D)`.
    """

    features: Tensor
    values: Tensor
    leaves: Tensor


# Bins ---------------------------------------------------------------------------------------


def cut(x: Tensor, words: Tensor, n_bins: int, spacing: Spacing = "quantile", sizes: Tensor | None = None) -> Bins:
    """Cut the values of each feature into bins.

    Args:
        x: :math:`(n, F)`; words by number.
        words: Whether a feature is made of words, :math:`(F)`.
        n_bins: Most questions of a feature of numbers. There are as many for all words together as that for each of
            their features; of more, those with the highest mean of ``sizes`` are left.
        spacing: Where a number is asked for: at so many quantiles of the rows, which share them as evenly as they can,
            or evenly from the least (included) to the greatest (not included).
        sizes: Weight of each row in the choice of words, :math:`(n)`; the same by default.
    """
    n, features = x.shape
    codes = torch.empty(n, features, dtype=torch.long, device=x.device)
    found = []
    if bool(words.any()):
        found.append(_words(x[:, words], n_bins, torch.ones_like(x[:, 0]) if sizes is None else sizes))
    if not bool(words.all()):
        found.append(_numbers(x[:, ~words], n_bins, spacing))
    width = max(values.shape[1] for _, values, _ in found)
    values = x.new_full((features, width), torch.inf)
    asked = torch.zeros(features, width, dtype=torch.bool, device=x.device)
    kinds = [kind for kind in (words, ~words) if bool(kind.any())]
    for kind, (own_codes, own_values, own_asked) in zip(kinds, found, strict=True):
        codes[:, kind] = own_codes
        values[kind, : own_values.shape[1]] = own_values
        asked[kind, : own_asked.shape[1]] = own_asked
    return Bins(codes, values, asked, words)


def _numbers(x: Tensor, n_bins: int, spacing: Spacing) -> tuple[Tensor, Tensor, Tensor]:
    n = len(x)
    if spacing == "uniform":
        least, most = x.min(0).values, x.max(0).values
        steps = torch.arange(n_bins, device=x.device, dtype=x.dtype)
        values = least[:, None] + steps * ((most - least) / n_bins)[:, None]
    else:
        share, rest = divmod(n, n_bins + 1)  # so many rows lie up to a quantile and above the one before
        rows = torch.full((n_bins,), share, device=x.device)
        rows[:rest] += 1
        last = rows.cumsum(0)[: min(n, n_bins)] - 1
        values = x.sort(0).values[last].T.contiguous()
    asked = torch.ones_like(values, dtype=torch.bool)
    asked[:, 1:] = values[:, 1:] != values[:, :-1]
    return torch.searchsorted(values, x.T.contiguous()).T, values, asked


def _words(x: Tensor, n_bins: int, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features = x.shape[1]
    numbers, codes = x.unique(return_inverse=True)
    values = numbers.expand(features, -1)
    place = (codes + torch.arange(features, device=x.device) * len(numbers)).flatten()
    tables = torch.zeros(2, features * len(numbers), dtype=torch.float64, device=x.device)
    tables[0].index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
    tables[1].index_add_(0, place, sizes.double().repeat_interleave(features))
    asked = tables[0] > 0
    if int(asked.sum()) > features * n_bins:
        means = torch.where(asked, tables[1] / tables[0].clamp_min(1), -torch.inf)
        asked = torch.zeros_like(asked).index_fill_(0, means.topk(features * n_bins).indices, True)
    return codes, values, asked.view(features, -1)


# Growing ------------------------------------------------------------------------------------


def grow(
    bins: Bins,
    gradients: Tensor,
    *,
    depth: int,
    oblivious: bool = True,
    score: Score = "cosine",
    leaf_rows: Tensor | None = None,
) -> Tree:
    """Grow a tree.

    No question is asked twice on a path. An oblivious tree ends where there is none left. A node of a greedy tree is
    split if that is worth no less than the node itself, the first one in any case; a node without rows is not.

    Args:
        bins: Of the rows.
        gradients: Rows by which questions are chosen, :math:`(n, D)`.
        depth: Levels of questions.
        oblivious: Whether all nodes of a level share a question.
        score: Worth of a split.
        leaf_rows: Rows whose means the leaves hold, :math:`(n, D)`; by default ``gradients``.
    """
    codes, features = bins.codes, bins.codes.shape[1]
    width = max(bins.values.shape[1], int(codes.max()) + 1)
    spare = width - bins.values.shape[1]
    values = F.pad(bins.values, (0, spare), value=torch.inf)
    free = F.pad(bins.asked, (0, spare)).unsqueeze(0)
    sums = torch.cat([torch.ones_like(gradients[:, :1]), gradients], 1).double().T.repeat_interleave(features, 1)
    place = torch.arange(features, device=codes.device) * width + codes
    node = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
    alive = torch.ones(1, dtype=torch.bool, device=codes.device)
    questions: list[tuple[Tensor, Tensor]] = []
    for level in range(depth):
        table = sums.new_zeros(len(sums), 2**level * features * width)
        at = (node.unsqueeze(1) * (features * width) + place).flatten()
        table = table.scatter_add_(1, at.expand(len(sums), -1), sums).view(len(sums), -1, features, width)
        whole = table[:, :, 0].sum(2)
        worth = _worth(table, whole, bins.words, score).masked_fill_(~free, -torch.inf)
        if oblivious:
            best, question = worth.sum(0).flatten().max(0)
            if best == -torch.inf:
                break
            question = question.expand(1)
        else:
            best, question = worth.flatten(1).max(1)
            own = _rooted(_value(whole), score) if level else torch.zeros_like(best)
            alive = alive & (best - own >= 0) & (whole[0] > 0)
        feature, number = question // width, question % width
        questions.append((feature * alive, torch.where(alive, values[feature, number], torch.inf)))
        free = free.clone()
        free.view(len(free), -1).scatter_(1, question.unsqueeze(1), False)
        group = torch.zeros_like(node) if oblivious else node
        code, number = codes.gather(1, feature[group].unsqueeze(1)).squeeze(1), number[group]
        yes = torch.where(bins.words[feature[group]], code == number, code > number) & alive[group]
        node = 2 * node + yes
        if not oblivious:
            free, alive = free.repeat_interleave(2, 0), alive.repeat_interleave(2)
    for level in range(len(questions), depth):  # questions of nobody
        size = 1 if oblivious else 2**level
        questions.append((node.new_zeros(size), values.new_full((size,), torch.inf)))
        node = 2 * node
    leaves = _means(node, gradients if leaf_rows is None else leaf_rows, 2**depth)
    if not questions:
        return Tree(node[:0], values[0, :0], leaves)
    asked_features, asked_values = (torch.cat(column) for column in zip(*questions, strict=True))
    return Tree(asked_features, asked_values, leaves)


def _worth(table: Tensor, whole: Tensor, words: Tensor, score: Score) -> Tensor:
    """Worth of each split, :math:`(nodes, F, B)`, from counts and sums by bin, :math:`(1 + D, nodes, F, B)`."""
    if bool(words.all()):
        side = table
    elif bool(words.any()):
        side = torch.where(words[:, None], table, table.cumsum(3))
    else:
        side = table.cumsum(3)
    return _rooted(_value(side) + _value(whole[:, :, None, None] - side), score)


def _value(sums: Tensor) -> Tensor:
    """Squared norm of sums over counts, which come first; nothing for a set without rows."""
    return sums[1:].square().sum(0) / sums[0].clamp_min(1)


def _rooted(value: Tensor, score: Score) -> Tensor:
    return value.sqrt() if score == "cosine" else value


def _means(leaf: Tensor, rows: Tensor, number: int) -> Tensor:
    sums = torch.zeros(number, rows.shape[1], dtype=torch.float64, device=rows.device)
    sums.index_add_(0, leaf, rows.double())
    return sums / leaf.bincount(minlength=number).clamp_min(1).unsqueeze(1)


# Reading ------------------------------------------------------------------------------------


def leaf_numbers(x: Tensor, features: Tensor, values: Tensor, words: Tensor | bool, depth: int) -> Tensor:
    """Leaf of each row in each of :math:`K` trees.

    Args:
        x: :math:`(n, F)`.
        features, values: Of the questions, :math:`(K, Q)`: :math:`Q` is ``depth`` where the trees are oblivious, else
            :math:`2^{depth} - 1`.
        words: Whether a feature is made of words: one answer, or :math:`(F)`.
        depth: Of the trees.

    Returns:
        :math:`(K, n)`, from 0.
    """
    x, trees = x.T.contiguous(), len(features)
    if features.shape[1] == depth:  # all levels at once: leaves are binary numbers
        feature = features.T.flatten()
        yes = _answers(x.index_select(0, feature), values.T.reshape(-1, 1), words, feature.unsqueeze(1))
        digits = 2.0 ** torch.arange(depth - 1, -1, -1, device=x.device)
        return (digits @ yes.view(depth, trees * x.shape[1]).to(digits.dtype)).long().view(trees, -1)
    leaf = torch.zeros(trees, x.shape[1], dtype=torch.long, device=x.device)
    for level in range(depth):
        at = leaf + (2**level - 1)
        feature = features.gather(1, at)
        leaf = leaf.mul_(2).add_(_answers(x.gather(0, feature), values.gather(1, at), words, feature))
    return leaf


def _answers(seen: Tensor, value: Tensor, words: Tensor | bool, feature: Tensor) -> Tensor:
    if isinstance(words, bool):
        return seen == value if words else seen > value
    return torch.where(words[feature], seen == value, seen > value)

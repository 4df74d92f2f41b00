"""Folds: which fold each row of a data set is tested in.

    fold_of = draw_folds(len(y), 5, streams.split, labels=y)      # or leave_one_out(project), or listed(files, len(y))
    train, test = split_by_fold(fold_of, data.fold)

The numbers, one a row, are all there is to it, whoever made them: a scikit-learn splitter, the authors of the set, or
the groups of the rows. docs/folds.md says how runs and studies use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from replicata.errors import UserError
from replicata.streams import Stream


def draw_folds(
    size: int, folds: int, stream: Stream, *, labels: Tensor | None = None, groups: Tensor | None = None
) -> Tensor:
    """Folds of nearly equal size, drawn at random.

    Args:
        size: Number of rows :math:`N`.
        folds: Number of folds, at least 2.
        stream: The run's ``split`` stream.
        labels: Classes :math:`(N)`; each fold then has its share of every class.
        groups: What must not be torn apart, :math:`(N)`: persons, queries, copies of one example.

    Returns:
        :math:`(N)` fold of each row.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    kinds = {(False, False): KFold, (True, False): StratifiedKFold, (False, True): GroupKFold}
    splitter = kinds.get((labels is not None, groups is not None), StratifiedGroupKFold)
    units = size if groups is None else len(groups.unique())
    if not 2 <= folds <= units:
        raise UserError(f"data.folds must be between 2 and {units}, what is to be divided; got {folds}")
    state = int(stream.numpy.integers(2**31))
    return _fold_of(splitter(folds, shuffle=True, random_state=state), size, labels, groups)


def leave_one_out(groups: Tensor) -> Tensor:
    """One fold for each group :math:`(N)`, in ascending order of the groups."""
    from sklearn.model_selection import LeaveOneGroupOut

    return _fold_of(LeaveOneGroupOut(), len(groups), None, groups)


def listed(rows: Sequence[Sequence[int] | np.ndarray], size: int) -> Tensor:
    """The folds of a data set's authors, from the rows tested in each.

    Args:
        rows: For each fold the numbers of its rows, such as the lines of an index file.
        size: Number of rows :math:`N`; each must be in exactly one fold.
    """
    chosen = np.concatenate([np.asarray(fold, dtype=np.int64) for fold in rows])
    if not np.array_equal(np.sort(chosen), np.arange(size)):
        raise UserError(f"the listed folds do not hold each of the {size} rows exactly once: {len(chosen)} are listed")
    fold_of = torch.empty(size, dtype=torch.long)
    fold_of[torch.from_numpy(chosen)] = torch.repeat_interleave(torch.tensor([len(fold) for fold in rows]))
    return fold_of


def split_by_fold(fold_of: Tensor, fold: int) -> tuple[Tensor, Tensor]:
    """The rows that train and the rows that are tested, both in the order of the data."""
    folds = int(fold_of.max()) + 1
    if not 0 <= fold < folds:
        raise UserError(f"data.fold must be between 0 and {folds - 1}, got {fold}")
    tested = fold_of == fold
    rows = torch.arange(len(fold_of))
    return rows[~tested], rows[tested]


def _fold_of(splitter: Any, size: int, labels: Tensor | None, groups: Tensor | None) -> Tensor:
    fold_of = torch.empty(size, dtype=torch.long)
    given = [None if column is None else column.numpy() for column in (labels, groups)]
    for fold, (_, test) in enumerate(splitter.split(np.empty(size), *given)):
        fold_of[torch.from_numpy(test)] = fold
    return fold_of

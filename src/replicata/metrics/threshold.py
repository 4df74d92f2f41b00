"""F-beta scores over thresholds: what is above a threshold is called positive."""

from __future__ import annotations

import numpy as np


def f_beta(true_positives: np.ndarray, false_positives: np.ndarray, positives: int, beta: float) -> np.ndarray:
    r"""F-beta, :math:`(1 + \beta^2)\,tp / (tp + \beta^2 P + fp)`, of any number of predictions; without positives 0."""
    bottom = true_positives + false_positives + beta**2 * positives
    return np.divide((1 + beta**2) * true_positives, bottom, out=np.zeros(np.shape(bottom)), where=bottom > 0)


def count_above(scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives where a score above the threshold, and not at it, is called positive.

    Args:
        scores: :math:`(N)`.
        labels: :math:`(N)` truth values.
        thresholds: :math:`(T)`, ascending.

    Returns:
        Two counts :math:`(T)`.
    """
    passed = np.searchsorted(thresholds, scores)  # the number of thresholds below each score
    counts = np.bincount(2 * passed + labels, minlength=2 * len(thresholds) + 2).reshape(-1, 2)
    above = counts[::-1].cumsum(0)[::-1][1:]
    return above[:, 1], above[:, 0]


def best_threshold(scores: np.ndarray, labels: np.ndarray, beta: float) -> tuple[float, float]:
    """The threshold with the highest F-beta, midway between two neighbouring scores, and that F-beta.

    Of equals it is the lowest; minus infinity, which calls everything positive, is among them.
    """
    distinct = np.unique(scores)
    thresholds = np.concatenate([[-np.inf], (distinct[1:] + distinct[:-1]) / 2])
    values = f_beta(*count_above(scores, labels, thresholds), int(labels.sum()), beta)
    best = int(values.argmax())
    return float(thresholds[best]), float(values[best])

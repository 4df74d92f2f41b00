"""F-beta over thresholds: scikit-learn is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score

from replicata.metrics.threshold import best_threshold, count_above, f_beta

SCORES = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=1, max_size=30)


@given(SCORES, st.sampled_from([0.5, 1.0, 2.0]))
@settings(deadline=None, max_examples=60)
def test_scores_agree_with_scikit_learn(rows: list[tuple[float, bool]], beta: float) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    thresholds = np.array([-np.inf, 0.1, 0.3, 0.75, 1.0])  # two of them are scores: above is strict
    found = f_beta(*count_above(scores, labels, thresholds), int(labels.sum()), beta)
    expected = [fbeta_score(labels, scores > threshold, beta=beta, zero_division=0) for threshold in thresholds]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    threshold, value = best_threshold(scores, labels, beta)
    assert value == pytest.approx(fbeta_score(labels, scores > threshold, beta=beta, zero_division=0))
    assert value >= max(expected) - 1e-12


def test_the_threshold_is_in_the_middle_of_a_gap() -> None:
    assert best_threshold(np.array([0.0, 1.0, 3.0]), np.array([False, False, True]), 2.0) == (2.0, 1.0)
    assert best_threshold(np.array([0.0, 1.0]), np.array([True, True]), 2.0) == (-np.inf, 1.0)

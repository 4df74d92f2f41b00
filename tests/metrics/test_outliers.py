"""Outliers by density: the corner of a curve, and the labels of scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN

from replicata.metrics.outliers import density_outliers, knee, neighbour_distance, principal


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 300), st.floats(0.2, 0.9), st.floats(0.01, 100), st.floats(0, 5))
def test_the_corner_of_two_lines_is_found(size: int, share: float, scale: float, offset: float) -> None:
    corner = max(1, min(int(share * size), size - 2))
    places = np.arange(size)
    curve = offset + scale * (0.1 * places / size + 10 * np.maximum(places - corner, 0) / size)
    assert abs(knee(curve) - corner) <= 1


def test_a_flat_curve_has_its_corner_at_the_end() -> None:
    assert knee(np.ones(5)) == 4


def test_neighbour_distances_are_means_over_others() -> None:
    points = np.random.default_rng(0).normal(size=(30, 3))
    expected = np.sort(cdist(points, points), axis=1)[:, 1:5].mean(1)
    np.testing.assert_allclose(neighbour_distance(points, 4), expected)


def test_labels_are_dbscans_and_one_far_point_is_out() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(200, 4)), np.full((1, 4), 20.0)])
    outliers, radius = density_outliers(points)
    labels = DBSCAN(eps=radius, min_samples=math.ceil(math.log(201))).fit_predict(points)
    np.testing.assert_array_equal(outliers, labels == -1)
    assert outliers[-1]


@pytest.mark.parametrize("points", [np.zeros((2, 3)), np.zeros((9, 3))])
def test_points_that_are_too_few_or_equal_have_no_outlier(points: np.ndarray) -> None:
    assert not density_outliers(points)[0].any()
    assert principal(points).shape[0] == len(points)


def test_principal_components_keep_their_share_of_the_variance() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 5)) * [10, 5, 2, 0.01, 0.01]
    projected = principal(points)
    assert projected.shape == (200, 3)
    assert projected.var(0).sum() >= 0.99 * points.var(0).sum()
    np.testing.assert_allclose(
        np.linalg.norm(projected, axis=1).mean(), np.linalg.norm(points - points.mean(0), axis=1).mean(), rtol=0.01
    )

"""Outliers by density, with the radius read off the points themselves."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

Array = NDArray[np.float64]


def knee(curve: Array) -> int:
    """Place of the corner of a rising convex curve: farthest below the chord, both axes scaled to [0, 1].

    Satopaa, Albrecht, Irwin, Raghavan, "Finding a Kneedle in a Haystack", 2011, without smoothing.
    """
    span = curve[-1] - curve[0]
    if span <= 0:
        return len(curve) - 1
    return int(np.argmax(np.linspace(0, 1, len(curve)) - (curve - curve[0]) / span))


def neighbour_distance(points: Array, k: int) -> Array:
    """Mean distance of each point :math:`(n)` to its ``k`` nearest others."""
    distances, _ = NearestNeighbors(n_neighbors=min(k, len(points) - 1)).fit(points).kneighbors()
    return distances.mean(1)


def principal(points: Array, variance: float = 0.99) -> Array:
    """Projection :math:`(n, d)` to the fewest principal components that keep a share of the variance."""
    if np.ptp(points, axis=0).max() == 0:
        return np.zeros((len(points), 1))
    return PCA(n_components=variance, svd_solver="full").fit_transform(points)


def density_outliers(points: Array) -> tuple[NDArray[np.bool_], float]:
    r"""Points that DBSCAN assigns to no cluster.

    The least number of points is :math:`\lceil \ln n \rceil`; the radius is the :func:`knee` of the sorted mean
    distances to so many neighbours.

    Returns:
        Outliers :math:`(n)` and the radius.
    """
    if len(points) < 3:
        return np.zeros(len(points), dtype=bool), 0.0
    k = math.ceil(math.log(len(points)))
    curve = np.sort(neighbour_distance(points, k))
    radius = float(max(curve[knee(curve)], np.finfo(float).tiny))
    return DBSCAN(eps=radius, min_samples=k).fit_predict(points) == -1, radius

"""Spearman's rank correlation, where a constant correlates with nothing."""

from __future__ import annotations

import math

from torch import Tensor


def spearman(x: Tensor, y: Tensor) -> float:
    """The rank correlation of :math:`(n)` values; 0 if either is constant."""
    from scipy.stats import spearmanr

    if bool((x == x[0]).all()) or bool((y == y[0]).all()):
        return 0.0
    found = float(spearmanr(x.double().cpu().numpy(), y.double().cpu().numpy()).statistic)
    return 0.0 if math.isnan(found) else found

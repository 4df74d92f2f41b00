"""Estimates with 95 % intervals, from values that are independent of each other (one per seed, as a rule).

    estimate = mean(differences)            # Estimate(effect, low, high, n, method)
    region.decide(estimate.low, estimate.high)

Every function takes plain numbers and returns an :class:`Estimate`. Where the data cannot carry an interval, the
estimate has none, and says why; it then decides nothing. numpy and scipy are imported when a function is called.

What is chosen, and why:

* **Means**: Student's t below 8 values. From 8 on the BCa bootstrap, which follows skewed data, with two corrections.
  Its level is expanded (Hesterberg 2015, "What teachers should know about the bootstrap"), since a plain bootstrap of
  8 values is a quarter narrower than t and covers 88 %, not 95 %. And no end of it lies inside t's, since resampling
  a few values understates rare ones: where one run in ten collapses, BCa alone would report an effect that is not
  there in 7 % of all studies of 8 to 20 seeds, on each side; this interval in 2 %.
* **Few values or no spread**: one or two values decide nothing, except where the claim calls the quantity ``exact``.
  From three on, values that agree to float32's precision (1e-6 of the compared numbers) are taken as exact.
* **Ratios** are means of logarithms, taken back.
* **Binary outcomes**: Clopper-Pearson for one share; for two shares the odds ratio with its exact conditional interval,
  the one that belongs to Fisher's test.
* **Correlations**: one coefficient per seed and the mean of these; or all runs as one sample, with Fisher's z and
  for ranks the variance of Bonett and Wright (2000). A constant column has no order: its coefficient is 0.
* **Trends**: one slope per seed, of the metric over the rank of the swept value, and the mean of these: an ordered
  contrast. Rank correlations per seed would be blind to scale, but take few values: three seeds with three points
  each would agree by chance in 7 % of all studies. A trend must also be monotone: see :func:`wrong_steps`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95
BOOTSTRAP_FROM = 8
RESAMPLES = 9999
RESOLUTION = 1e-6
FEWEST_VALUES = 3
FEWEST_POINTS = 5


@dataclass(frozen=True)
class Estimate:
    """An effect, its interval, the number of independent values behind it, and how it was computed."""

    effect: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    why: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


def undecided(effect: float | None, n: int, why: str) -> Estimate:
    """An estimate without an interval."""
    return Estimate(effect, None, None, n, "none", why)


def mean(
    values: Sequence[float],
    scale: float | None = None,
    *,
    exact: bool = False,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The mean of independent values.

    Args:
        values: One per seed: metrics, or differences of paired ones.
        scale: Size of the numbers that were compared, below a millionth of which a difference is rounding;
            the largest value if not given.
        exact: The claim calls the quantity deterministic: the values must agree, and one is enough.
        level: Coverage of the interval.
        resamples: Of the bootstrap.
    """
    import numpy as np

    x = np.asarray(values, dtype=float)
    n = len(x)
    if n == 0:
        return undecided(None, 0, "there are no values")
    effect = float(x.mean())
    size = float(np.abs(x).max()) if scale is None else scale
    equal = float(np.ptp(x)) <= RESOLUTION * size
    if exact:
        if equal:
            return Estimate(effect, effect, effect, n, "exact")
        return undecided(effect, n, f"called exact, yet the values range from {x.min():.6g} to {x.max():.6g}")
    if n < FEWEST_VALUES:
        few = "one seed decides" if n == 1 else "two seeds decide"
        return undecided(effect, n, f"{few} nothing; a deterministic quantity is declared by exact: true")
    if equal:
        return Estimate(effect, effect, effect, n, "all equal")
    low, high = interval(x, level, resamples)
    return Estimate(effect, float(low), float(high), n, "t" if n < BOOTSTRAP_FROM else "BCa bootstrap")


def interval(x: np.ndarray, level: float = LEVEL, resamples: int = RESAMPLES) -> tuple[Any, Any]:
    """The interval of the mean over the last axis: Student's, from 8 values on widened to the bootstrap's."""
    import numpy as np

    low, high = student(x, level)
    if x.shape[-1] >= BOOTSTRAP_FROM:
        bootstrapped = bca(x, level, resamples)
        low, high = np.fmin(low, bootstrapped[0]), np.fmax(high, bootstrapped[1])  # a NaN end gives way to t's
    return low, high


def student(x: np.ndarray, level: float = LEVEL) -> tuple[Any, Any]:
    """Student's interval of the mean over the last axis."""
    n = x.shape[-1]
    center = x.mean(axis=-1)
    half = _t_quantile(n, level) * x.std(axis=-1, ddof=1) / math.sqrt(n)
    return center - half, center + half


def bca(x: np.ndarray, level: float = LEVEL, resamples: int = RESAMPLES) -> tuple[Any, Any]:
    """The bias-corrected and accelerated bootstrap interval of the mean over the last axis, at the expanded level.

    Always from the same random numbers, so that a verdict does not change when it is computed again. It is that of
    ``scipy.stats.bootstrap``, written out for the mean: a jackknife mean is known in closed form, the resamples are
    drawn once for every number of values, and to import ``scipy.stats`` takes longer than to judge a study.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    n = x.shape[-1]
    z = math.sqrt(n / (n - 1)) * _t_quantile(n, level)  # the expanded level
    center = x.mean(axis=-1, keepdims=True)
    means = np.sort(x[..., _resamples(n, resamples)].mean(axis=-1), axis=-1)
    below = ((means < center).sum(axis=-1) + (means <= center).sum(axis=-1)) / (2 * resamples)
    gaps = x - center
    with np.errstate(invalid="ignore", divide="ignore"):  # of degenerate resamples: the caller looks at the result
        bias = ndtri(below)
        acceleration = (gaps**3).sum(axis=-1) / (6 * (gaps**2).sum(axis=-1) ** 1.5)
        shifted = [bias - z, bias + z]
        low, high = (ndtr(bias + shift / (1 - acceleration * shift)) for shift in shifted)
    return _quantile(means, low), _quantile(means, high)


@lru_cache(maxsize=4)
def _resamples(n: int, count: int) -> np.ndarray:
    """Which of ``n`` values each resample holds."""
    import numpy as np

    return np.random.default_rng(0).integers(0, n, (count, n))


def _quantile(ordered: np.ndarray, level: Any) -> Any:
    """The quantile of each row at a level of its own; NaN at level NaN."""
    import numpy as np

    place = np.nan_to_num(level) * (ordered.shape[-1] - 1)
    left = np.floor(place).astype(int)
    right = np.minimum(left + 1, ordered.shape[-1] - 1)
    ends = [np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0] for at in (left, right)]
    return np.where(np.isnan(level), np.nan, ends[0] + (place - left) * (ends[1] - ends[0]))


def _t_quantile(n: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, (1 + level) / 2))


def difference(a: Sequence[float], b: Sequence[float], *, exact: bool = False) -> Estimate:
    """The mean of paired differences ``a - b``."""
    scale = max((abs(value) for value in (*a, *b)), default=0.0)
    estimate = mean([x - y for x, y in zip(a, b, strict=True)], scale, exact=exact)
    return replace(
        estimate, method=f"paired {estimate.method}" if estimate.method in ("t", "BCa bootstrap") else estimate.method
    )


def ratio(a: Sequence[float], b: Sequence[float], *, exact: bool = False) -> Estimate:
    """The geometric mean of paired ratios ``a / b``."""
    if any(value <= 0 for value in (*a, *b)):
        return undecided(None, len(a), "a ratio needs values above 0")
    logs = mean([math.log(x / y) for x, y in zip(a, b, strict=True)], 1.0, exact=exact)
    effect, low, high = (None if value is None else math.exp(value) for value in (logs.effect, logs.low, logs.high))
    method = f"paired {logs.method} on logs" if logs.method in ("t", "BCa bootstrap") else logs.method
    return replace(logs, effect=effect, low=low, high=high, method=method)


# Binary outcomes ----------------------------------------------------------------------------


def is_binary(*samples: Sequence[float]) -> bool:
    """Whether all values are 0 or 1 and both occur: then they are outcomes, whatever they are called."""
    return {value for sample in samples for value in sample} == {0.0, 1.0}


def share(outcomes: Sequence[float]) -> Estimate:
    """The share of ones, with its Clopper-Pearson interval."""
    from scipy.stats import binomtest

    n = len(outcomes)
    if n == 0:
        return undecided(None, 0, "there are no values")
    if not set(outcomes) <= {0.0, 1.0}:
        return undecided(None, n, "called binary, yet there are values other than 0 and 1")
    result = binomtest(int(sum(outcomes)), n).proportion_ci(LEVEL, method="exact")
    return Estimate(sum(outcomes) / n, float(result.low), float(result.high), n, "Clopper-Pearson")


def odds(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The odds ratio of two shares of ones; 1 where they are equal."""
    from scipy.stats.contingency import odds_ratio

    n = len(a)
    if n == 0:
        return undecided(None, 0, "there are no values")
    if not {*a, *b} <= {0.0, 1.0}:
        return undecided(None, n, "called binary, yet there are values other than 0 and 1")
    table = [[int(sum(a)), n - int(sum(a))], [int(sum(b)), len(b) - int(sum(b))]]
    if len({*a, *b}) == 1:
        return undecided(None, n, f"every outcome is {a[0]:g}: there is nothing to tell apart")
    result = odds_ratio(table, kind="conditional")
    interval = result.confidence_interval(LEVEL)
    return Estimate(float(result.statistic), float(interval.low), float(interval.high), n, "exact odds ratio")


# Correlations and trends --------------------------------------------------------------------


def coefficient(x: Sequence[float], y: Sequence[float], method: str) -> float:
    """Spearman's or Pearson's coefficient; 0 if a column is constant."""
    import numpy as np
    from scipy.stats import rankdata

    columns = [np.asarray(column, dtype=float) for column in (x, y)]
    if method == "spearman":
        columns = [rankdata(column) for column in columns]
    columns = [column - column.mean() for column in columns]
    norms = [float(np.linalg.norm(column)) for column in columns]
    if min(norms) == 0:
        return 0.0
    return float(np.clip(columns[0] @ columns[1] / (norms[0] * norms[1]), -1, 1))


def correlation(x: Sequence[float], y: Sequence[float], method: str) -> Estimate:
    """The coefficient of one sample of independent points, with Fisher's interval."""
    n = len(x)
    r = coefficient(x, y, method)
    if n < FEWEST_POINTS:
        return undecided(r, n, f"a correlation needs {FEWEST_POINTS} points")
    if len(set(x)) == 1 or len(set(y)) == 1:
        return undecided(r, n, "a column is constant")
    factor = 1 + r * r / 2 if method == "spearman" else 1.0
    half = _normal_quantile() * math.sqrt(factor / (n - 3))
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r)))
    return Estimate(r, math.tanh(z - half), math.tanh(z + half), n, f"{method}, Fisher z")


def mean_correlation(samples: Sequence[tuple[Sequence[float], Sequence[float]]], method: str) -> Estimate:
    """The mean over seeds of the coefficient within each seed."""
    if any(len(x) < FEWEST_POINTS for x, _ in samples):
        return undecided(None, len(samples), f"a correlation needs {FEWEST_POINTS} points in every seed")
    estimate = mean([coefficient(x, y, method) for x, y in samples], 1.0)
    return replace(estimate, method=f"{method} per seed, {estimate.method}")


def _normal_quantile() -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + LEVEL) / 2))


def trend(rows: Sequence[Sequence[float]], *, exact: bool = False) -> Estimate:
    """The mean over seeds of the slope over ranks: by how much the metric changes per step of the swept value.

    Args:
        rows: For each seed the metric at the swept values, in order.
    """
    import numpy as np

    x = np.asarray(rows, dtype=float)
    ranks = np.arange(x.shape[1]) - (x.shape[1] - 1) / 2
    slopes = x @ ranks / float(ranks @ ranks)
    estimate = mean(slopes.tolist(), float(np.abs(x).max()), exact=exact)
    return replace(estimate, method=f"slope per step, {estimate.method}")


def wrong_steps(rows: Sequence[Sequence[float]], rising: bool, *, exact: bool = False) -> list[tuple[int, Estimate]]:
    """Steps that clearly go the other way, with 95 % over all steps together (Bonferroni).

    Returns:
        (i, estimate of the step from swept value i to i + 1) for each; a claimed trend with one is not monotone.
    """
    steps = len(rows[0]) - 1
    found = []
    for step in range(steps):
        pairs = [(row[step + 1], row[step]) for row in rows]
        scale = max(abs(value) for pair in pairs for value in pair)
        estimate = mean([after - before for after, before in pairs], scale, exact=exact, level=1 - (1 - LEVEL) / steps)
        against = estimate.high if rising else estimate.low
        if against is not None and (against < 0 if rising else against > 0):
            found.append((step, estimate))
    return found

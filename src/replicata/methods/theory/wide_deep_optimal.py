r"""Wide and Deep Neural Networks Achieve Optimality for Classification.

Radhakrishnan, Belkin, Uhler, 2022. https://arxiv.org/abs/2204.14126

An infinitely wide network trained by gradient flow on the squared loss predicts by kernel regression with its
neural tangent kernel. As its depth grows too, that classifier tends to one of three classical ones, and
Gaussian moments of the activation decide which. One family is a singular kernel :math:`1 / \|x - x'\|^\alpha`;
an activation with :math:`\alpha = d`, the dimension of the data, makes it Bayes-optimal in the limit of many examples.

Inputs :math:`x` are unit vectors on :math:`S^d \subset \mathbb{R}^{d+1}` with inner products :math:`s \ge 0`, labels
:math:`y = \pm 1`, :math:`z \sim N(0, 1)`, :math:`\check\phi` the dual activation (:mod:`replicata.nn.kernels`).

.. math::
    A &= \mathbb{E}\phi(z), \quad A' = \mathbb{E}\phi'(z), \quad B' = \mathbb{E}\phi'(z)^2, \quad
        \mathbb{E}\phi(z)^2 = 1                                                                            \quad (1)\\
    S_l &= \check\phi(S_{l-1}), \quad K_l = K_{l-1}\,\check\phi'(S_{l-1}) + S_l, \quad S_0 = K_0 = s       \quad (2)\\
    m_L(x) &= \mathrm{sign}\; y^\top K_L(X, X)^{-1} K_L(X, x)                                              \quad (3)\\
    A = 0 \ne A':&\quad m_\infty(x) = \mathrm{sign} \sum_i y_i\,\psi(x_i^\top x), \quad
        \psi(s) = \lim_L \frac{K_L(s)}{L\,A'^{2L}} = \frac{R(\|x - x'\|)}{\|x - x'\|^\alpha}, \quad
        \alpha = -4\,\frac{\log |A'|}{\log B'}                                                             \quad (4)\\
    A = A' = 0:&\quad m_\infty(x) = \text{the label of the nearest neighbour}                              \quad (5)\\
    A \ne 0:&\quad m_\infty(x) = \mathrm{sign} \sum_i y_i, \text{ the majority}                            \quad (6)\\
    \alpha = d:&\quad \phi_d = 2^{-d/4} h_1 + \sqrt{1 - 2^{1 - d/2}}\, h_2 + 2^{-d/4} h_3 \ (d \ge 2, B' = 2), \quad
        \phi_1 = (h_1 + h_7) / \sqrt 2 \ (B' = 4)                                                          \quad (7)\\
    h(x) &= \mathrm{sign} \sum_i y_i \|x - x_i\|^{-d} \quad \text{(Hilbert estimate, Devroye et al. 1998)} \quad (8)

Why (4): while :math:`s` is near 1 a layer multiplies :math:`1 - S` by :math:`B'`, so leaving 1 takes
:math:`\log \frac{1}{1 - s} / \log B'` layers; from then on a layer multiplies :math:`S` by :math:`A'^2`. Against a pair
that left at once, :math:`S` is larger by :math:`A'^2` to the power of minus that number,
:math:`(1 - s)^{2 \log|A'| / \log B'}`, and :math:`1 - s = \|x - x'\|^2 / 2`. On the diagonal
:math:`K_L = \sum_{l \le L} B'^l` grows, so :math:`K_L(X, X)` becomes a multiple of the identity and drops out of (3).
:math:`R` is bounded but not constant: (4) and (8) are alike and not equal.

How deep is deep: the layers spent near :math:`s = 1` add to :math:`K_L` as well, and summing (2) gives
:math:`K_L \approx A'^{2L}\,\psi(s)\,(L + O(\|x - x'\|^{-2}))` (9). So the limit needs :math:`L \gg \|x - x'\|^{-2}` for
the nearest neighbours, some :math:`n^{2/d}` layers; at moderate depth the exponent is :math:`\alpha + 2`. Once
:math:`S` is tiny a layer is linear, so a million of them are one step (:func:`~replicata.nn.kernels.log_nngp_ntk`).

Departures: the paper's (7) covers integer :math:`d`; other exponents below 2 have the same form with higher Hermite
polynomials in place of :math:`h_2, h_3` (:func:`singular_coefficients`). Everything is computed on logarithms, since
(2) underflows float64 at moderate depth. The ridge in (3) is numerical, not statistical. ReLU, the radial-basis SVM and
the network of finite width are comparisons of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.errors import UserError
from replicata.nn.kernels import BLOCK, ArcCosineDual, Dual, PolynomialDual, log_koenigs, log_nngp_ntk
from replicata.tasks.base import total
from replicata.tasks.estimator import Arrays, Estimator
from replicata.tasks.procedure import Procedure
from replicata.tasks.supervised import Supervised

ACTIVATIONS = ("singular", "square", "offset", "relu")


def singular_coefficients(alpha: float) -> list[float]:
    r"""Hermite coefficients of an activation of case (4) with exponent :math:`\alpha`.

    With :math:`B' = 2` the exponent asks for :math:`A' = 2^{-\alpha/4}`. What is then left of
    :math:`\sum a_i^2 = 1` and :math:`\sum i a_i^2 = B'` goes to two neighbouring degrees, from :math:`\alpha = 2` on
    degrees 2 and 3: Eq. (7). For :math:`\alpha = 1` it is the paper's own :math:`(h_1 + h_7) / \sqrt 2`.
    """
    if alpha == 1:
        return [0.0, math.sqrt(0.5), 0.0, 0.0, 0.0, 0.0, 0.0, math.sqrt(0.5)]
    first = 2 ** (-alpha / 2)
    degree = (2 - first) / (1 - first)  # mean degree of the rest, above 2
    low = math.floor(degree + 1e-9)
    high_share = max(0.0, degree - low)  # rounding: exactly 0 at alpha = 2, where the rest is h_3 alone
    powers = [0.0] * (low + 2)
    powers[1], powers[low], powers[low + 1] = first, (1 - first) * (1 - high_share), (1 - first) * high_share
    return [math.sqrt(power) for power in powers]


def dual_of(activation: str, alpha: float) -> Dual:
    """The dual activations of the three cases: ``singular`` (4), ``square`` (5), ``offset`` and ``relu`` (6)."""
    if activation == "singular":
        return PolynomialDual.of(singular_coefficients(alpha))
    if activation == "square":
        return PolynomialDual([0.0, 0.0, 1.0])
    if activation == "offset":
        return PolynomialDual([0.25, 0.25, 0.5])
    return ArcCosineDual()


def limit_case(dual: Dual) -> Literal["singular", "nearest", "majority"]:
    """Which of (4), (5), (6) the network tends to, from :math:`A^2` and :math:`A'^2`.

    Raises:
        ValueError: if :math:`A \\ne 0` and :math:`B' < 1`: the kernel then tends to a constant everywhere.
    """
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    if dual.value(zero) == 0:
        return "nearest" if dual.slope(zero) == 0 else "singular"
    if dual.slope(one) < 1 - 1e-12:
        raise ValueError("A is not 0 and B' < 1: the kernel tends to a constant and has no limit classifier")
    return "majority"


def vote(log_k: Tensor, weights: Tensor) -> Tensor:
    """Classes :math:`(M)` of the largest entries of :math:`K w`, from :math:`\\log K`: the scale of a row drops out."""
    return ((log_k - log_k.amax(1, keepdim=True)).exp() @ weights).argmax(1)


class WideDeep(Procedure):
    r"""Infinitely wide networks of given depths, their limits, and the Hilbert estimate.

    The unit of work is a depth; the last one gives the metrics of the run.

    Metrics: ``test/error``; ``test/excess`` = error minus that of the Bayes classifier on the same examples, where the
    data knows it (``clean``); for ``ntk`` also ``test/agree`` = share of test points with the label of the limit
    classifier, and where the limit is singular ``test/agree_hilbert`` likewise with (8).

    Tables: ``depth`` (agreement and error by depth), ``error`` (one row, with :math:`n`), ``kernel`` (:math:`\psi`).

    Args:
        dim: Dimension :math:`d` of the sphere, not of the space around it; nominal on real data.
        num_classes: Classes; each against the rest, which for two is the sign of (3).
        classifier: ``ntk`` (3), ``limit`` (4)-(6) or ``hilbert`` (8).
        activation: ``singular`` (7), ``square`` :math:`h_2`, ``offset`` :math:`(1 + h_1)/2 + h_2/\sqrt 2`, or ``relu``.
        ratio: :math:`\alpha / d`; the paper's condition for consistency is 1.
        depths: Depths :math:`L` of ``ntk``, ascending. The paper's statements are about the limit: see (9).
        jitter: Ridge of (3) relative to the diagonal; our choice, to keep the solve defined.
        **task: see :class:`~replicata.tasks.base.Task`.

    Shapes:
        - ``x``: :math:`(N, *)` without negative entries, flattened and divided by its norm; ``y``: :math:`(N)` classes.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        classifier: Literal["ntk", "limit", "hilbert"] = "ntk",
        activation: Literal["singular", "square", "offset", "relu"] = "singular",
        ratio: float = 1.0,
        depths: Sequence[int] = (60,),
        jitter: float = 1e-10,
        **task: Any,
    ) -> None:
        if dim < 1:
            raise ValueError(f"method.dim must be at least 1, got {dim}")
        if classifier not in ("ntk", "limit", "hilbert"):
            raise ValueError(f"method.classifier must be ntk, limit or hilbert, got {classifier!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"method.activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if ratio <= 0:
            raise ValueError(f"method.ratio must be above 0, got {ratio}")
        if not depths or min(depths) < 1 or list(depths) != sorted(set(depths)):
            raise ValueError(f"method.depths must be ascending numbers of layers, got {list(depths)}")
        if jitter < 0:
            raise ValueError(f"method.jitter must be >= 0, got {jitter}")
        super().__init__(**task)
        self.num_classes = num_classes
        self.classifier, self.activation, self.alpha = classifier, activation, float(ratio * dim)
        self.depths, self.jitter = list(depths), jitter
        self.dual = dual_of(activation, self.alpha)
        self.case = limit_case(self.dual)
        self._reached: tuple[int, Tensor, Tensor] | None = None
        self._limit: Tensor | None = None

    def on_fit_start(self) -> None:
        """Unit vectors, and for each class +1 against -1, in float64 on the device."""
        super().on_fit_start()
        rows = []
        for name in ("train", "test"):
            x = self.split(name)["x"].flatten(1).to(self.device, torch.float64)
            if x.min() < 0 or not x.any(1).all():
                raise UserError(f"data: the method needs {name} rows without negative entries and not all zero (scale)")
            rows.append(x / x.norm(dim=1, keepdim=True))
        self.train_x, self.test_x = rows
        labels = self.split("train")["y"].to(self.device)
        self.signs = 2.0 * F.one_hot(labels, self.num_classes).double() - 1

    # Classifiers: the classes of the test points -------------------------------------------

    def gram(self, x: Tensor) -> Tensor:
        """Inner products with the training points."""
        return (x @ self.train_x.T).clamp(0, 1)

    def tangent_regression(self, depth: int) -> tuple[Tensor, Tensor]:
        """Eqs. (2) and (3): the logarithm of :math:`K_L(x, X)`, and :math:`K_L(X, X)^{-1} y` up to scale.

        The layers of a depth before are not computed again, except after a resume.
        """
        if self._reached is None or self._reached[0] > depth:
            # log 1 on the diagonal, exactly: B'^L blows up a rounding error there, and the diagonal would decay.
            log_gram = torch.cat([self.gram(self.train_x).fill_diagonal_(1), self.gram(self.test_x)]).log()
            self._reached = (0, log_gram, log_gram)
        done, log_s, log_k = self._reached
        log_s, log_k = log_nngp_ntk(log_s, log_k, self.dual, depth - done)
        self._reached = (depth, log_s, log_k)

        n = len(self.signs)
        k = (log_k[:n] - log_k[0, 0]).exp()  # in units of the diagonal; what underflows to 0 is nothing beside it
        k.diagonal().add_(self.jitter)
        return log_k[n:] - log_k[0, 0], torch.linalg.solve(k, self.signs)

    def limit_classifier(self) -> Tensor:
        """Eqs. (4) to (6), in blocks of test points."""
        if self.case == "majority":
            return self.signs.sum(0).argmax().expand(len(self.test_x))
        predictions = []
        for x in self._test_blocks():
            s = self.gram(x)
            if self.case == "nearest":
                predictions.append(self.signs[s.argmax(1)].argmax(1))
            else:
                assert isinstance(self.dual, PolynomialDual)
                predictions.append(vote(log_koenigs(s.log(), self.dual), self.signs))
        return torch.cat(predictions)

    def hilbert_classifier(self) -> Tensor:
        """Eq. (8), with the exponent of the method."""
        predictions = []
        for x in self._test_blocks():
            square_distance = (2 - 2 * self.gram(x)).clamp_min(2.0**-52)
            predictions.append(vote(-self.alpha / 2 * square_distance.log(), self.signs))
        return torch.cat(predictions)

    def _test_blocks(self) -> tuple[Tensor, ...]:
        return self.test_x.split(max(1, BLOCK * 8 // len(self.train_x)))

    # Work ----------------------------------------------------------------------------------

    def units(self) -> int:
        return len(self.depths) if self.classifier == "ntk" else 1

    def work(self, item: int) -> Mapping[str, float]:
        metrics: dict[str, float] = {}
        if self.classifier == "ntk":
            predicted = vote(*self.tangent_regression(self.depths[item]))
            if self._limit is None:
                self._limit = self.limit_classifier()
            metrics["test/agree"] = float((predicted == self._limit).double().mean())
            if self.case == "singular":
                metrics["test/agree_hilbert"] = float((predicted == self.hilbert_classifier()).double().mean())
        else:
            predicted = self.limit_classifier() if self.classifier == "limit" else self.hilbert_classifier()
        metrics |= {f"test/{name}": value for name, value in scores(predicted.cpu(), self.split("test")).items()}
        if self.classifier == "ntk":
            row = {name.partition("/")[2]: value for name, value in metrics.items()}
            self.record("depth", [{"depth": self.depths[item], **row}])
        return metrics

    def finish(self) -> Mapping[str, float]:
        """The metrics of the last depth."""
        final = self.results[-1]
        row = {name.partition("/")[2]: value for name, value in final.items()}
        self.record("error", [{"n": len(self.signs), **row}])
        if self.case == "singular" and self.classifier == "limit":
            assert isinstance(self.dual, PolynomialDual)
            distance = torch.logspace(-4, 0, 41, dtype=torch.float64)
            psi = log_koenigs(torch.log1p(-(distance**2) / 2), self.dual).exp()
            pairs = zip(distance.tolist(), psi.tolist(), strict=True)
            self.record("kernel", [{"alpha": self.alpha, "distance": r, "kernel": value} for r, value in pairs])
        return final


def scores(predicted: Tensor, split: Mapping[str, Tensor]) -> dict[str, float]:
    """Error of predicted classes :math:`(N)`, and by how much it exceeds the Bayes classifier's on the same rows."""
    error = float((predicted != split["y"]).double().mean())
    if "clean" not in split:
        return {"error": error}
    return {"error": error, "excess": error - float((split["clean"] != split["y"]).double().mean())}


class Reference(Estimator):
    """A strong classical classifier, scored as :class:`WideDeep` is."""

    def scores(self, stage: str, arrays: Arrays, prediction: np.ndarray) -> Mapping[str, float]:
        values = scores(torch.as_tensor(prediction), {name: torch.as_tensor(column) for name, column in arrays.items()})
        if stage == "test":
            self.record("error", [{"n": len(self.split("train")["y"]), **values}])
        return values


class FiniteWidth(Supervised):
    r"""A network of finite width, by gradient descent on the squared loss to :math:`y = \pm 1`.

    Shapes:
        - ``model(x)``: :math:`(B)`; ``batch["y"]``: :math:`(B)` in {0, 1}.
    """

    def objective(self, batch: Batch, output: Tensor) -> Tensor:
        return (output - (2.0 * batch["y"] - 1)).square().mean()

    def _evaluate(self, stage: str, batch: Batch) -> None:
        output = self.predict_batch(batch)
        _, values = total(self.objective(batch, output))
        for name, value in scores((output > 0).long(), batch).items():
            values[name] = output.new_tensor(value)
        self.meters[stage].update(values, output, batch["y"])

r"""MIP: Magnitude Invariant Parametrizations Improve Hypernetwork Learning.

Gonzalez Ortiz, Guttag, Dalca, ICLR 2024. https://arxiv.org/abs/2304.07645
Official library: https://github.com/JJGO/hyperlight

A hypernetwork :math:`h` predicts the weights of a primary network :math:`f` from an input :math:`\gamma`.
With LeakyReLU layers and biases that start at zero it is positively homogeneous (2): predicted weights,
activations and gradients scale with the size of the input, an :math:`L`-layer primary network's activations
up to :math:`|\gamma|^L`, and no initialisation of the output layer fits more than one :math:`\gamma`. MIP
removes the proportionality by an input encoding of constant norm (3, 4) and an output that only changes
independent, trainable weights (5).

.. math::
    \min_\omega\ &\mathbb{E}_{(x, y), \gamma}\ \mathcal{L}\big(f(x;\, \theta(\gamma)),\, y\big)
        &\quad \theta(\gamma) = h(\gamma; \omega)                                           \quad (1)\\
    h(a \gamma) &= a\, h(\gamma), \quad a > 0                                               \quad (2)\\
    z &= (\gamma - \gamma_\mathrm{low}) / (\gamma_\mathrm{high} - \gamma_\mathrm{low})      \quad (3)\\
    E_{L2}(z) &= [\cos(\pi z / 2),\, \sin(\pi z / 2)], \quad \|E_{L2}(z)\|_2 = \sqrt d      \quad (4)\\
    \theta(\gamma) &= \theta_0 + h(E_{L2}(z); \omega)                                       \quad (5)

:math:`\theta_0` is the bias of the hypernetwork's last layer, as in the library: a parametrisation of its own
would have the same gradients. So all arms have that bias; with the residual encoding it starts as
the primary network would on its own, and the last layer so that the change is small; without, it starts at zero.

Two problems are treated, both with one :math:`\gamma` for a training batch (and process), drawn anew at each step:

- :class:`RotationHypernetwork`, our laptop problem: :math:`\gamma` turns the images by up to 90 degrees and the
  labels stay, so that the best weights depend on it. Evaluation averages over five values of
  :math:`\gamma` across its range.
- :class:`BayesianHypernetwork`, as in the paper: :math:`\gamma` is noise, and a prediction is the mean over draws.

Sources of defaults: encoding, residual initialisation, LeakyReLU, and no dropout from the official library; widths
16-64 are our choice (paper: 16-128). All weights and biases of convolutional and linear layers are predicted. The
default parametrisation starts hyperfan-in (Chang et al., ICLR 2020), our choice of a fair baseline: its predicted
weights have the right scale at :math:`\gamma = 1`.

Departures: the authors' tasks are covered for MNIST-like images (``adaptive/mip_paper``: the primary network of
the library's example, rotation and Bayesian) and, by configuration alone, for OxfordFlowers-102 with a
ResNet-18 (``adaptive/mip_flowers_paper``); HyperMorph and the segmentation networks are not covered. The paper's
learning rates and result tables are not known to us; rates come from a grid, equal for all arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.data.vision.transforms import rotate
from replicata.nn.functional import Functional, layer_weights
from replicata.nn.hypernetwork import Encoding, Hypernetwork, Independent
from replicata.streams import Stream
from replicata.tasks.supervised import Classification


class HypernetworkClassification(Classification):
    r"""A classifier whose weights are a function of :math:`\gamma`.

    It records the table ``scale`` before the first step: ``weight_std`` and ``output_std``, the spread of the
    predicted convolution weights (of all weights where there is no convolution) and of the logits of the first
    batch, at ten values of :math:`\gamma` from a tenth of its range to the end, equal in all dimensions.

    Metrics:
        - ``train/weight_std_ratio``: ``weight_std`` before training, at the end of the range over at a tenth of it.
        - ``val/acc_mean``: mean of ``val/acc`` over all evaluations so far.

    Args:
        model: Primary network; the tensors of its convolutional and linear layers are predicted, others are trained.
        gamma_dim: Dimension :math:`d` of :math:`\gamma`.
        gamma_range: :math:`[\gamma_\mathrm{low}, \gamma_\mathrm{high}]` of its uniform prior, in each dimension.
        widths: Hidden widths of the hypernetwork; ``None``: there is none, and :math:`\theta(\gamma) = \theta_0`.
        encoding: ``cos_sin`` (Eq. 4), ``z_1mz`` (the library's alternative) or ``none``: the default
            parametrisation, which takes :math:`\gamma` as it is.
        residual: Whether the output is a change to :math:`\theta_0` (Eq. 5).
        layer_norm: LayerNorm in the hypernetwork.
        **task: see :class:`~replicata.tasks.supervised.Classification`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        gamma_dim: int = 1,
        gamma_range: tuple[float, float] = (0.0, 1.0),
        widths: Sequence[int] | None = (16, 64),
        encoding: Encoding = "cos_sin",
        residual: bool = True,
        layer_norm: bool = False,
        **task: Any,
    ) -> None:
        low, high = gamma_range
        if not low < high:
            raise ValueError(f"method.gamma_range must rise, got {list(gamma_range)}")
        if gamma_dim < 1:
            raise ValueError(f"method.gamma_dim must be at least 1, got {gamma_dim}")
        super().__init__(**task)
        self.gamma_dim, self.low, self.high = gamma_dim, low, high
        self.primary = Functional(model, layer_weights(model))
        if widths is None:
            self.hypernetwork: nn.Module = Independent(self.primary.spec)
        else:
            self.hypernetwork = Hypernetwork(
                self.primary.spec, gamma_dim, widths, encoding=encoding, residual=residual, layer_norm=layer_norm
            )
        self.encoding = encoding
        self.evaluations: list[float] = []

    # gamma lives on the host, in double precision: single precision could not undo the scaling of the range exactly.

    def at(self, z: Tensor) -> Tensor:
        r""":math:`\gamma` at relative positions :math:`z \in [0, 1]^d`: the inverse of Eq. (3)."""
        return self.low + z.double() * (self.high - self.low)

    def relative(self, gamma: Tensor) -> Tensor:
        return ((gamma - self.low) / (self.high - self.low)).float()  # Eq. (3)

    def draw(self, stream: Stream) -> Tensor:
        r"""One :math:`\gamma` from the prior, :math:`(d)`."""
        return self.at(torch.rand(self.gamma_dim, generator=stream.torch))

    def weights(self, gamma: Tensor) -> dict[str, Tensor]:
        r""":math:`\theta(\gamma)` by name: Eqs. (4) and (5), or what is left of them."""
        return self.hypernetwork(gamma if self.encoding == "none" else self.relative(gamma))

    def augment(self, batch: Batch) -> Batch:
        return batch | {"gamma": self.draw(self.streams.noise)}

    def predict_batch(self, batch: Batch) -> Tensor:
        return self.primary(self.weights(batch["gamma"]), batch["x"])  # Eq. (1)

    # What is measured ----------------------------------------------------------------------

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if "scale" not in self.tables:
            self.primary.eval()  # the measurement must leave running statistics alone
            self.record("scale", [self.scale(batch["x"], tenth / 10) for tenth in range(1, 11)])
            self.primary.train()

    @torch.no_grad()
    def scale(self, x: Tensor, z: float) -> dict[str, float]:
        r"""Spread of weights and outputs at one :math:`\gamma`, equal in all dimensions."""
        gamma = self.at(torch.full((self.gamma_dim,), z, dtype=torch.float64))
        weights = self.weights(gamma)
        convolutions = [weight for weight in weights.values() if weight.ndim == 4] or list(weights.values())
        spread = torch.cat([weight.flatten() for weight in convolutions]).std()
        outputs = self.primary(weights, x).std()
        return {"gamma": float(gamma[0]), "weight_std": float(spread), "output_std": float(outputs)}

    def on_train_epoch_end(self) -> None:
        first, *_, last = self.tables["scale"]
        self.log("train/weight_std_ratio", last["weight_std"] / first["weight_std"])
        super().on_train_epoch_end()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.evaluations.append(float(self.meters["val"].compute()["val/acc"]))
            self.log("val/acc_mean", sum(self.evaluations) / len(self.evaluations))
        super().on_validation_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["replicata"]["evaluations"] = self.evaluations

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.evaluations = checkpoint["replicata"]["evaluations"]


class RotationHypernetwork(HypernetworkClassification):
    r""":math:`\gamma` turns the images: by 90 degrees at the end of its range, not at all at its beginning.

    Args:
        eval_points: Evenly spaced :math:`\gamma` over which evaluation averages, both ends included.
        **method: see :class:`HypernetworkClassification`; ``gamma_dim`` is 1.

    Shapes:
        - ``batch["x"]``: :math:`(B, C, H, W)`, ``batch["y"]``: :math:`(B)` class ids.
    """

    def __init__(self, eval_points: int = 5, **method: Any) -> None:
        if eval_points < 2:
            raise ValueError(f"method.eval_points must be at least 2, got {eval_points}")
        super().__init__(gamma_dim=1, **method)
        self.eval_points = eval_points

    def turn(self, batch: Batch, gamma: Tensor) -> Batch:
        return batch | {"x": rotate(batch["x"], 90 * float(self.relative(gamma))), "gamma": gamma}

    def augment(self, batch: Batch) -> Batch:
        return self.turn(batch, self.draw(self.streams.noise))

    def _evaluate(self, stage: str, batch: Batch) -> None:
        for z in torch.linspace(0, 1, self.eval_points):
            super()._evaluate(stage, self.turn(batch, self.at(z[None])))


class BayesianHypernetwork(HypernetworkClassification):
    r""":math:`\gamma` is noise without meaning; the predictive distribution is the mean over draws.

    ``val/nll`` and ``test/nll`` are the negative log-likelihood of that mean.

    Args:
        draws: Draws :math:`K` of :math:`\gamma` at evaluation, the same for all batches of a run. Ours: 10.
        **method: see :class:`HypernetworkClassification`.
    """

    def __init__(self, draws: int = 10, **method: Any) -> None:
        if draws < 1:
            raise ValueError(f"method.draws must be at least 1, got {draws}")
        super().__init__(**method)
        self.draws = draws

    def objective(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        return {"nll": F.cross_entropy(output, batch["y"])}

    def _evaluate(self, stage: str, batch: Batch) -> None:
        # The init stream is the same on all processes; keyed streams do not depend on what was drawn before.
        gammas = [self.draw(self.streams.init.at(number)) for number in range(self.draws)]
        logits = torch.stack([self.predict_batch(batch | {"gamma": gamma}) for gamma in gammas])
        mean = logits.log_softmax(-1).logsumexp(0) - math.log(self.draws)  # log of the mean probability
        nll = self.objective(batch, mean)["nll"]
        self.meters[stage].update({"loss": nll, "nll": nll}, mean, batch["y"])

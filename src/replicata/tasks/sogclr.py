r"""SogCLR and iSogCLR: contrastive learning whose negatives are remembered beyond the batch.

SogCLR: Yuan et al., ICML 2022, https://arxiv.org/abs/2202.12387.
iSogCLR: Qiu et al., Not All Semantics are Created Equal, ICML 2023, https://arxiv.org/abs/2305.11965.

For unit vectors :math:`x_i, t_i` of images and texts, with :math:`d_{ij} = \langle x_i, t_j - t_i \rangle` on the
side of images and :math:`d_{ij} = \langle x_j - x_i, t_i \rangle` on that of texts, both minimise on each side

.. math::
    F_i = \tau_i \log \mathrm{mean}_{j \ne i}\, e^{d_{ij} / \tau_i} + \tau_i \rho

over *all* negatives of the training set. :class:`~replicata.nn.moving_means.MovingMeans` estimate the mean, with
weights :math:`w_{ij}` and :math:`\log s_i + b_i` by which

.. math::
    \nabla_d F_i &\approx w_{ij}                                                                        \quad (1)\\
    \partial F_i / \partial \tau_i &\approx \log s_i + b_i + \rho - \sum_j w_{ij}\, d_{ij} / \tau_i     \quad (2)

In SogCLR all :math:`\tau_i` are one constant; in iSogCLR each example has its own, which follows (2). Differences from
the authors' code: :math:`s` is a mean also where theirs is a sum, so that a last, smaller batch counts alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.errors import UserError
from replicata.metrics.rank_correlation import spearman
from replicata.nn.gather import gather_rows
from replicata.nn.moving_means import MovingMeans
from replicata.tasks.dual_encoder import DualEncoder

Side = Literal["image", "text"]


class SogCLR(DualEncoder):
    r"""One fixed temperature.

    Args:
        examples: Training pairs; an example's memory is found by its ``index``.
        tau: The temperature.
        gamma: Share of a batch in the moving means. The authors' code for pairs: 0.8.
        **task: see :class:`~replicata.tasks.dual_encoder.DualEncoder`.

    Shapes:
        - ``batch["index"]``: :math:`(B)` besides those of the base.
    """

    def __init__(self, examples: int, tau: float = 0.01, gamma: float = 0.8, **task: Any) -> None:
        super().__init__(tau=tau, learn_tau=False, **task)
        self.examples = examples
        self.image_means, self.text_means = MovingMeans(examples, gamma), MovingMeans(examples, gamma)

    def temperatures(self, side: Side, features: Tensor, index: Tensor) -> Tensor:
        r""":math:`\tau` :math:`(B)` of this process's examples, from their unit vectors, without gradient to these."""
        return torch.full((len(index),), float(self.tau), device=features.device)

    def learn(self, side: Side, tau: Tensor, slope: Tensor, index: Tensor) -> Tensor | None:
        """What the temperatures :math:`(B)` of all examples make of Eq. (2); a loss, if they have parameters."""
        return None

    def objective(self, batch: Batch, image: Tensor, text: Tensor) -> Mapping[str, Tensor]:
        taus = {side: gather_rows(self.temperatures(side, z, batch["index"])) for side, z in _sides(image, text)}
        index, image, text = gather_rows(batch["index"]), gather_rows(image), gather_rows(text)
        similarity = image @ text.t()
        losses: dict[str, Tensor] = {}
        for side, rows in _sides(similarity, similarity.t()):
            differences = rows - rows.diagonal()[:, None]
            weights, slope = self.estimate(side, differences.detach(), taus[side].detach(), index)
            losses[side] = (weights * differences).sum(1).mean()  # its gradient is Eq. (1)
            loss = self.learn(side, taus[side], slope, index)
            if loss is not None:
                losses[f"{side}_tau"] = loss
        return losses

    def estimate(self, side: Side, differences: Tensor, tau: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        r"""Weights :math:`(B, B)` of Eq. (1) and, but for :math:`\rho`, the slope of Eq. (2) :math:`(B)`."""
        means = self.image_means if side == "image" else self.text_means
        scaled = differences / tau[:, None]
        weights, log_mean = means(index, scaled)
        return weights, log_mean - (weights * scaled).sum(1)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        splits = getattr(self.trainer.datamodule, "splits", None)  # type: ignore[attr-defined]
        if splits and len(splits["train"]["key"]) != self.examples:
            raise UserError(f"method.examples={self.examples}, but there are {len(splits['train']['key'])} pairs")


class ISogCLR(SogCLR):
    r"""A table of temperatures, one for each side of each training pair, that follow Eq. (2) by momentum:

    .. math::
        u_i \leftarrow (1 - \beta)\, u_i + \beta\, \mathrm{clip}(\partial F_i / \partial \tau_i,\ \pm 5), \qquad
        \tau_i \leftarrow \mathrm{clip}(\tau_i - \eta u_i,\ [\tau_{\min}, \tau_{\max}])

    Metrics besides: ``test/table_tau`` and ``test/table_tau_std``, mean and standard deviation of the table, and where
    the data has ``log_frequency``, ``test/table_tau_frequency``, its rank correlation with that; means of both sides.

    Args:
        rho: :math:`\rho`; below the logarithm of the number of negatives in a batch.
        tau_min, tau_max: Range of the temperatures.
        tau_init: Where they start.
        step: :math:`\eta`. The authors' code: 0.03.
        momentum: :math:`\beta`. The authors' code: 0.5.
        **sogclr: see :class:`SogCLR`.

    Raises:
        ValueError: unless ``0 < tau_min <= tau_init <= tau_max``.
    """

    image_tau: Tensor
    text_tau: Tensor
    image_slope: Tensor
    text_slope: Tensor
    CLIP = 5.0

    def __init__(
        self,
        rho: float,
        *,
        tau_min: float = 0.005,
        tau_max: float = 0.05,
        tau_init: float = 0.01,
        step: float = 0.03,
        momentum: float = 0.5,
        **sogclr: Any,
    ) -> None:
        if not 0 < tau_min <= tau_init <= tau_max:
            raise ValueError(
                f"method: 0 < tau_min <= tau_init <= tau_max is needed, got {tau_min}, {tau_init}, {tau_max}"
            )
        super().__init__(tau=tau_init, **sogclr)
        self.rho, self.limits, self.step, self.momentum = rho, (tau_min, tau_max), step, momentum
        for side in ("image", "text"):
            self.register_buffer(f"{side}_tau", torch.full((self.examples,), tau_init))
            self.register_buffer(f"{side}_slope", torch.zeros(self.examples))

    def temperatures(self, side: Side, features: Tensor, index: Tensor) -> Tensor:
        return getattr(self, f"{side}_tau")[index]

    def learn(self, side: Side, tau: Tensor, slope: Tensor, index: Tensor) -> None:
        table, slopes = getattr(self, f"{side}_tau"), getattr(self, f"{side}_slope")
        clipped = (slope + self.rho).clamp(-self.CLIP, self.CLIP)
        slopes[index] = (1 - self.momentum) * slopes[index] + self.momentum * clipped
        table[index] = (tau - self.step * slopes[index]).clamp(*self.limits)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        tables = torch.stack([self.image_tau, self.text_tau])
        values = {"test/table_tau": tables.mean(), "test/table_tau_std": tables.std(1).mean()}
        splits = getattr(self.trainer.datamodule, "splits", None)  # type: ignore[attr-defined]
        if splits and "log_frequency" in splits["train"]:
            frequency = splits["train"]["log_frequency"].to(self.device)
            correlations = [spearman(table, frequency) for table in tables]
            values["test/table_tau_frequency"] = torch.tensor(correlations).mean()
        self.log_dict(values, sync_dist=False, rank_zero_only=False)


def _sides(image: Tensor, text: Tensor) -> tuple[tuple[Side, Tensor], tuple[Side, Tensor]]:
    return ("image", image), ("text", text)

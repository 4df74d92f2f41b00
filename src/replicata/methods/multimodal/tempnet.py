r"""TempNet: To Cool or not to Cool? Temperature Network Meets Large Foundation Models via DRO.

Qiu, Guo, Xu, Zhao, Zhang, Yang, ICML 2024. https://arxiv.org/abs/2404.04575
Official code: https://github.com/zhqiu/TempNet

A softmax loss has one temperature for all inputs. TempNet gives each its own: a small network maps what is predicted
for an input to its temperature, and learns by minimising a robust loss that comes from distributionally robust
optimisation (DRO) under a bound :math:`\rho` on the Kullback-Leibler divergence from uniform. It is trained beside the
model or on a frozen one, and serves inputs it has never seen, which a table of temperatures cannot.

Language models (:math:`h \in \mathbb{R}^K` logits of a place, :math:`y` its token):

.. math::
    F(h, y, \tau) &= \tau\, \mathrm{CE}(h / \tau, y) + (\rho - \log K)\, \tau                          \quad (1)\\
    \partial F / \partial \tau &= H(\mathrm{softmax}(h / \tau)) - (\log K - \rho)                      \quad (2)\\
    v &= W_2\, \mathrm{dropout}(\sigma(W_1 h / \|h\|)), \quad
        u = w_3^\top \big((\mathrm{softmax}(v / e^s) - \tfrac{1}{M}) \odot v\big)                       \quad (3)\\
    \tau &= \tau_{\min} + (\tau_{\max} - \tau_{\min})\, \sigma(u)                                      \quad (4)

(1) is the dual of :math:`\max_p \sum_j p_j (h_j - h_y)` over :math:`\mathrm{KL}(p \| \text{uniform}) \le \rho`. By (2)
the best temperature makes the softmax's entropy :math:`\log K - \rho`, whatever the label. The model learns through
:math:`h` in (1), the network through :math:`\tau`; :math:`h` enters (3) without gradient.

Pairs of images and texts: on each side
:math:`F_i = \tau_i \log \mathrm{mean}_{j \ne i}\, e^{d_{ij} / \tau_i} + \tau_i \rho` over all negatives of the training
set, estimated with the weights :math:`w_{ij}`, moving means :math:`s_i` and shifts :math:`b_i` of
:class:`~replicata.tasks.sogclr.SogCLR`. The encoders follow :math:`\sum_j w_{ij} d_{ij}`, a network for each side

.. math::
    \ell_i &= \tau_i \cdot \mathrm{stop}\big(\log s_i + b_i + \rho
        - \textstyle\sum_j w_{ij} d_{ij} / \tau_i\big)                                                  \quad (5)\\
    a &= \mathrm{dropout}(\sigma(W z))\, \hat P^\top, \quad
        u = w^\top \big((\mathrm{softmax}(a / e^s) - \tfrac{1}{M}) \odot \sigma(a)\big)                 \quad (6)

and (4), where :math:`z` is the example's unit vector, without gradient, and :math:`\hat P` are :math:`M` prototypes of
unit length. They start as the first batch's vectors of the *other* side, as in the authors' code.

Ablations: :class:`TempNetLM` with ``robust=False`` trains the network by :math:`\mathrm{CE}(h / \tau, y)`; with
``temperature=newton`` there is no network, and ten Newton steps per place solve (2).

Departures: the laptop study has small encoders and a small GPT, a wider range of temperatures, and far larger rates for
the networks, which see few steps and otherwise stay where they start. That of the language model's network is the one
by which it follows (1) best on a frozen model, where the optimum is known. It has no weight decay; the authors' decays
by a hundredth in all. A frozen model is trained in the same run, to the same bits as alone, before its network is.
Perplexities are read at temperature 1 for all arms; whether the paper's are is not known. A model that learns by (1)
learns :math:`h / \tau`, so that at temperature 1 it is too sure, or too little, by as much as its temperatures are off
1. Reconstructed: the derivation of (1) is ours, and the code's Newton steps are taken without the clamp to 0.03 that it
ends on. Sources of defaults: the authors' code.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.errors import UserError
from replicata.metrics.rank_correlation import spearman
from replicata.nn.frozen import Frozen
from replicata.nn.gather import gather_rows
from replicata.optim.groups import decay_groups
from replicata.tasks.sogclr import Side, SogCLR
from replicata.tasks.tokens import Tokens

BINS = 76  # of the histogram of temperatures
LINES = 6  # windows in the picture of temperatures in a text


class TemperatureNetwork(nn.Module):
    r"""Eq. (4); a subclass gives :math:`u`.

    Args:
        tau_min, tau_max: Range of the temperatures.
        size: :math:`M`, what is weighted and summed to :math:`u`.
        scale: Start of :math:`e^s`.

    Raises:
        ValueError: unless ``0 < tau_min < tau_max``.
    """

    def __init__(self, tau_min: float, tau_max: float, size: int, scale: float) -> None:
        if not 0 < tau_min < tau_max:
            raise ValueError(f"method: 0 < tau_min < tau_max is needed, got {tau_min}, {tau_max}")
        super().__init__()
        self.tau_min, self.tau_max, self.size = tau_min, tau_max, size
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.dropout = nn.Dropout(0.5)
        self.sum = nn.Linear(size, 1)
        nn.init.ones_(self.sum.weight)
        nn.init.zeros_(self.sum.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Temperatures :math:`(n)` of inputs :math:`(n, D)`."""
        return self.tau_min + (self.tau_max - self.tau_min) * torch.sigmoid(self.score(x))

    def score(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what u is: implement score()")

    def summed(self, attended: Tensor, values: Tensor) -> Tensor:
        """The weights' deviation from uniform, times the values, summed: :math:`(n)`."""
        weights = (attended / self.log_scale.exp()).softmax(1)
        return self.sum((weights - 1 / self.size) * values).squeeze(1)


class LogitTemperature(TemperatureNetwork):
    r"""Eq. (3): temperatures from logits :math:`(n, K)`.

    Args:
        vocab_size: :math:`K`.
        hidden: :math:`M`, the width of both layers. The authors' code: 256.
        tau_min, tau_max: Range. GPT-2: [0.5, 5]; LLaMA-2: [0.01, 2].
    """

    def __init__(self, vocab_size: int, hidden: int, tau_min: float, tau_max: float) -> None:
        super().__init__(tau_min, tau_max, hidden, scale=1.0)
        self.project, self.compare = nn.Linear(vocab_size, hidden), nn.Linear(hidden, hidden)

    def score(self, x: Tensor) -> Tensor:
        values = self.compare(self.dropout(torch.sigmoid(self.project(F.normalize(x, dim=1)))))
        return self.summed(values, values)


class EmbeddingTemperature(TemperatureNetwork):
    r"""Eq. (6): temperatures from unit vectors :math:`(n, D)`.

    Args:
        width: :math:`D`.
        prototypes: :math:`M`. The authors' code: 256.
        tau_min, tau_max: Range. The authors' code: [0.005, 0.05].
    """

    started: Tensor

    def __init__(self, width: int, prototypes: int, tau_min: float, tau_max: float) -> None:
        super().__init__(tau_min, tau_max, prototypes, scale=0.01)
        self.project = nn.Linear(width, width)
        self.prototypes = nn.Parameter(torch.randn(prototypes, width))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def score(self, x: Tensor) -> Tensor:
        hidden = self.dropout(torch.sigmoid(self.project(x)))
        attended = hidden @ F.normalize(self.prototypes, dim=1).t()
        return self.summed(attended, torch.sigmoid(attended))

    def start(self, features: Tensor) -> None:
        """Take the first :math:`M` of some vectors :math:`(n, D)` as prototypes."""
        if len(features) < self.size:
            raise ValueError(f"method.prototypes={self.size} is more than the {len(features)} pairs of a batch")
        self.prototypes.data.copy_(features[: self.size])
        self.started.fill_(True)


# Pairs ------------------------------------------------------------------------------------------


class TempNet(SogCLR):
    r"""Contrastive learning with a temperature network for each side.

    Metrics beside those of the base: ``train/image_tau``, ``train/text_tau``, the losses (5); ``test/tau``,
    ``test/tau_std``: mean and standard deviation of the temperatures of the test's images and captions, mean of both
    sides; where the data has ``log_frequency``, ``test/tau_frequency``: rank correlation of the temperatures with it,
    mean of both sides.

    Tables: ``temperatures`` of the test's scenes (``side``, ``log_frequency``, ``tau``; a scene's captions are
    averaged); ``histogram``: for each side, and the fourths of the scenes of the rarest and the most frequent concepts,
    the share of the temperatures in each of 76 bins.

    Args:
        rho: :math:`\rho` of (5); below the logarithm of a batch's negatives. The authors' script: 7, batches of 2,048.
        tau_min, tau_max: Range of the temperatures.
        prototypes: :math:`M` of (6); at most a batch.
        tempnet_lr: Learning rate of the networks, which have no weight decay. The authors' script: 3e-5.
        **sogclr: see :class:`~replicata.tasks.sogclr.SogCLR`.

    Raises:
        ValueError: unless ``rho``, ``tempnet_lr`` and ``prototypes`` are positive and ``0 < tau_min < tau_max``.
    """

    def __init__(
        self,
        rho: float,
        *,
        tau_min: float = 0.005,
        tau_max: float = 0.05,
        prototypes: int = 256,
        tempnet_lr: float = 3e-5,
        **sogclr: Any,
    ) -> None:
        for name, value in (("rho", rho), ("tempnet_lr", tempnet_lr), ("prototypes", prototypes)):
            if value <= 0:
                raise ValueError(f"method.{name} must be above 0, got {value}")
        super().__init__(tau=tau_max, **sogclr)  # a constant that nothing reads
        self.rho, self.tempnet_lr = rho, tempnet_lr
        self.image_network = EmbeddingTemperature(self.model.width, prototypes, tau_min, tau_max)
        self.text_network = EmbeddingTemperature(self.model.width, prototypes, tau_min, tau_max)
        self.seen: dict[str, list[Tensor]] = {}

    def parameter_groups(self) -> Iterable[Any]:
        weights = [*self.image_network.parameters(), *self.text_network.parameters()]
        own = {"params": weights, "lr": self.tempnet_lr, "weight_decay": 0.0, "name": "tempnet"}
        return [*decay_groups(self.model), own]

    def objective(self, batch: Batch, image: Tensor, text: Tensor) -> Mapping[str, Tensor]:
        if not self.image_network.started:
            self.image_network.start(gather_rows(text.detach()))
            self.text_network.start(gather_rows(image.detach()))
        return super().objective(batch, image, text)

    def temperatures(self, side: Side, features: Tensor, index: Tensor) -> Tensor:
        network = self.image_network if side == "image" else self.text_network
        return network(features.detach())

    def learn(self, side: Side, tau: Tensor, slope: Tensor, index: Tensor) -> Tensor:
        return (tau * (slope + self.rho).detach()).mean()  # Eq. (5)

    # What is measured ----------------------------------------------------------------------

    def on_test_start(self) -> None:
        super().on_test_start()
        self.seen = {"image": [], "text": [], "log_frequency": []}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        image, text = self.evaluate("test", batch)
        self.seen["image"].append(self.image_network(image)[:, None])
        self.seen["text"].append(self.text_network(text).reshape(len(image), -1))
        if "log_frequency" in batch:
            self.seen["log_frequency"].append(batch["log_frequency"])

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        taus = {side: gather_rows(torch.cat(self.seen[side])) for side in ("image", "text")}
        values = {
            "test/tau": torch.stack([tau.mean() for tau in taus.values()]).mean(),
            "test/tau_std": torch.stack([tau.std() for tau in taus.values()]).mean(),
        }
        if self.seen["log_frequency"]:
            frequency = gather_rows(torch.cat(self.seen["log_frequency"]))
            found = [spearman(tau.flatten(), frequency.repeat_interleave(tau.shape[1])) for tau in taus.values()]
            values["test/tau_frequency"] = torch.tensor(found).mean()
            for side, tau in taus.items():
                self._tables(side, tau, frequency)
        self.log_dict(values, sync_dist=False, rank_zero_only=False)

    def _tables(self, side: str, tau: Tensor, frequency: Tensor) -> None:
        pairs = zip(frequency.tolist(), tau.mean(1).tolist(), strict=True)
        self.record("temperatures", [{"side": side, "log_frequency": at, "tau": value} for at, value in pairs])
        lowest, highest = self.image_network.tau_min, self.image_network.tau_max
        width = (highest - lowest) / BINS
        bins = ((tau - lowest) / width).long().clamp(0, BINS - 1)
        order = frequency.argsort()
        fourths = {"rarest": order[: len(order) // 4], "most frequent": order[-(len(order) // 4) :]}
        for name, rows in fourths.items():
            counts = torch.bincount(bins[rows].flatten(), minlength=BINS).double()
            shares = (counts / counts.sum().clamp_min(1)).tolist()
            of = f"{side}, {name} fourth"
            self.record(
                "histogram",
                [{"of": of, "tau": lowest + (at + 0.5) * width, "share": share} for at, share in enumerate(shares)],
            )


# Language models --------------------------------------------------------------------------------


class TempNetLM(Tokens):
    r"""A language model trained by the robust loss, with a temperature for every place.

    Metrics beside those of the base: ``val/robust``, ``test/robust``, the mean of (1); of the test alone
    ``test/ppl_at_tau``, the perplexity of :math:`h / \tau`; ``test/entropy_gap``, the size of the mean of (2) in nats,
    0 where the temperatures are the best; ``test/tau``, ``test/tau_std``. ``ppl`` is at temperature 1.

    Table ``text``: a picture of the test's first windows, each character coloured by the temperature it was predicted
    at; only of data that know their ``characters``.

    Args:
        rho: :math:`\rho` of (1), below :math:`\log K`. The authors' code: 8 for GPT-2's :math:`\log K = 10.8`.
        temperature: ``network``, or ``newton``: the root of (2), without a network.
        robust: Whether the loss is (1); else it is the cross-entropy of :math:`h / \tau`.
        hidden: Width of the network.
        tau_min, tau_max: Its range.
        tempnet_lr: Its learning rate; it has no weight decay. The authors' code: 2e-6 for GPT-2.
        freeze_after: Share of the epochs (rounded down) after which the model stays as it is and the network alone
            learns. Until then the model learns alone, by cross-entropy; 0 is for one that comes with its weights.
            ``None``: both learn from the start.
        **tokens: see :class:`~replicata.tasks.tokens.Tokens`.

    Raises:
        ValueError: unless :math:`0 < \rho < \log K`, and for arguments that exclude each other.
    """

    def __init__(
        self,
        rho: float,
        *,
        temperature: Literal["network", "newton"] = "network",
        robust: bool = True,
        hidden: int = 256,
        tau_min: float = 0.5,
        tau_max: float = 5.0,
        tempnet_lr: float = 2e-6,
        freeze_after: float | None = None,
        **tokens: Any,
    ) -> None:
        if temperature not in ("network", "newton"):
            raise ValueError(f"method.temperature must be network or newton, got {temperature!r}")
        if temperature == "newton" and (freeze_after is not None or not robust):
            raise ValueError("method.temperature=newton needs robust=true, and leaves a frozen model nothing to learn")
        if freeze_after is not None and not 0 <= freeze_after < 1:
            raise ValueError(f"method.freeze_after must be null or in [0, 1), got {freeze_after}")
        super().__init__(**tokens)
        if not 0 < rho < math.log(self.vocab_size):
            raise ValueError(f"method.rho must be between 0 and log K = {math.log(self.vocab_size):.2f}, got {rho}")
        self.rho, self.temperature, self.robust, self.tempnet_lr = rho, temperature, robust, tempnet_lr
        self.freeze_after = freeze_after
        if temperature == "network":
            self.tempnet = LogitTemperature(self.vocab_size, hidden, tau_min, tau_max)
        self.sums: list[Tensor] = []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.freeze_after and self.trainer.world_size > 1:
            raise UserError("method.freeze_after above 0 needs one process: each phase leaves some weights alone")

    def configure_model(self) -> None:
        if self.freeze_after == 0 and not isinstance(self.model, Frozen):  # asked again before the test
            self.model = Frozen(self.model)

    @property
    def frozen(self) -> bool:
        """Whether the model has learned all it will."""
        if not self.freeze_after:
            return self.freeze_after == 0
        return self.current_epoch >= int(self.freeze_after * (self.trainer.max_epochs or 0))

    def on_train_epoch_start(self) -> None:
        if self.frozen:
            self.model.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.model(tokens)

    def parameter_groups(self) -> Iterable[Any]:
        groups = decay_groups(self.model)
        if self.temperature == "network":
            own = {"params": list(self.tempnet.parameters()), "lr": self.tempnet_lr, "weight_decay": 0.0}
            groups.append(own | {"name": "tempnet"})
        return groups

    def temperatures(self, logits: Tensor) -> Tensor:
        r""":math:`\tau` :math:`(n)` of logits :math:`(n, K)`, without gradient to these."""
        if self.temperature == "newton":
            return newton_temperature(logits.detach(), self.rho)
        return self.tempnet(logits.detach())

    def objective(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.freeze_after is not None and not self.frozen:
            return F.cross_entropy(logits, targets)
        tau = self.temperatures(logits)
        if not self.robust:
            return F.cross_entropy(logits / tau[:, None], targets)
        return robust_loss(logits, targets, tau, self.rho).mean()

    # What is measured ----------------------------------------------------------------------

    def measures(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        robust = robust_loss(logits, targets, self.temperatures(logits), self.rho).mean()
        return super().measures(logits, targets) | {"robust": robust}

    def on_test_start(self) -> None:
        super().on_test_start()
        self.sums = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits, targets = self.evaluate("test", batch)
        tau = self.temperatures(logits)
        scaled = logits / tau[:, None]
        loss = F.cross_entropy(scaled, targets, reduction="sum")
        tau = tau.double()  # its variance is a small difference of large sums
        parts = [loss.double(), entropy(scaled).double().sum(), tau.sum(), tau.square().sum()]
        self.sums.append(torch.stack([*parts, tau.new_tensor(len(tau))]))
        characters: Sequence[str] | None = getattr(self.trainer.datamodule, "characters", None)  # type: ignore[attr-defined]
        if batch_idx == 0 and characters is not None and self.trainer.is_global_zero:
            shape = batch["targets"][:LINES].shape
            lines = ["".join(characters[token] for token in row) for row in batch["targets"][:LINES].tolist()]
            row: dict[str, Any] = {"image": coloured_text(lines, tau[: shape.numel()].reshape(shape))}
            self.record("text", [row])

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        loss, information, first, second, count = self.trainer.strategy.reduce(
            torch.stack(self.sums).sum(0), reduce_op="sum"
        ).tolist()
        values = {
            "test/ppl_at_tau": math.exp(loss / count),
            "test/entropy_gap": abs(information / count - (math.log(self.vocab_size) - self.rho)),
            "test/tau": first / count,
            "test/tau_std": max(0.0, second / count - (first / count) ** 2) ** 0.5,
        }
        self.log_dict(values, sync_dist=False, rank_zero_only=False)


def robust_loss(logits: Tensor, targets: Tensor, tau: Tensor, rho: float) -> Tensor:
    r"""Eq. (1) of each row.

    Args:
        logits: :math:`(n, K)`.
        targets: :math:`(n)`.
        tau: :math:`(n)`.
        rho: :math:`\rho`.
    """
    losses = F.cross_entropy(logits / tau[:, None], targets, reduction="none")
    return tau * losses + (rho - math.log(logits.shape[1])) * tau


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each row's softmax, :math:`(n)`."""
    return torch.special.entr(logits.softmax(1)).sum(1)


def newton_temperature(logits: Tensor, rho: float, steps: int = 10, least: float = 0.01) -> Tensor:
    r"""The root of (2) by Newton's method from :math:`\tau = 1`; the slope's derivative is
    :math:`\mathrm{Var}(h / \tau) / \tau` under the softmax, whose variance is taken as 1 at least.

    Args:
        logits: :math:`(n, K)`.
        rho: :math:`\rho`.
        steps: Newton steps.
        least: Below which no temperature falls.

    Returns:
        :math:`(n)`.
    """
    tau = torch.ones(len(logits), dtype=logits.dtype, device=logits.device)
    for _ in range(steps):
        scaled = logits / tau[:, None]
        share = scaled.softmax(1)
        slope = torch.special.entr(share).sum(1) - (math.log(logits.shape[1]) - rho)
        mean = (share * scaled).sum(1, keepdim=True)
        variance = (share * (scaled - mean).square()).sum(1)
        tau = (tau - slope * tau / variance.clamp_min(1)).clamp_min(least)
    return tau


def coloured_text(lines: Sequence[str], tau: Tensor) -> bytes:
    """A PNG of text whose characters have a background by their temperature, and what the colours mean.

    Args:
        lines: Of equal length :math:`T`.
        tau: :math:`(\\text{lines}, T)`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    ramp = colormaps["viridis"]
    low, high = float(tau.min()), float(tau.max())
    canvas = Figure(figsize=(0.14 * len(lines[0]), 0.28 * len(lines) + 0.9), dpi=160, layout="compressed")
    axes = canvas.add_subplot()
    image = axes.imshow(tau.cpu().double().numpy(), cmap=ramp, vmin=low, vmax=high, aspect="auto")
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            red, green, blue, _ = ramp((float(tau[row, column]) - low) / ((high - low) or 1))
            ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
            shown = "↵" if character == "\n" else character
            axes.text(column, row, shown, color=ink, family="monospace", ha="center", va="center", fontsize=8)
    axes.set_axis_off()
    canvas.colorbar(image, ax=axes, orientation="horizontal", fraction=0.12, pad=0.04, aspect=60).set_label(
        "temperature"
    )
    target = io.BytesIO()
    canvas.savefig(target, format="png")
    return target.getvalue()


def own_perplexity(run: Mapping[str, Any]) -> float:
    """Derived column: the perplexity at the temperatures that the method gives, 1 where it gives none."""
    return run["metrics"].get("test/ppl_at_tau", run["metrics"]["test/ppl"])

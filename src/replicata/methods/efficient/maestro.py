r"""Maestro: Uncovering Low-Rank Structures via Trainable Decomposition.

Horvath, Laskaridis, Rajput, Wang, ICML 2024. https://arxiv.org/abs/2308.14929
Official code: https://github.com/SamuelHorvath/Maestro-LoD

Every weight is a product of two factors. A training step cuts one layer to its first components and leaves the
others whole (ordered dropout on the inner dimension), so that components are learnt in the order of their importance;
a group lasso on the tails drives the last ones to zero, and what has fallen below a threshold is cut after every
epoch. So the rank of each layer is found by training, and can be lowered further when the network is deployed.

.. math::
    W &= U V^\top,\quad U = P \sqrt S,\; V = Q \sqrt S \text{ at the start, from } W = P S Q^\top          \quad (1)\\
    f_{i,b} &: \text{ layer } i \text{ computes } U_{:b} V_{:b}^\top x + \beta, \text{ all others } U V^\top x + \beta
                                                                                                           \quad (2)\\
    (i, b) &\in \{1..L\} \times \{1..r_i\}, \text{ each pair once in random order, then again}             \quad (3)\\
    \ell &= \mathrm{CE}(f_{i,b}(x), y) + \lambda \sum_i \sum_{b=1}^{r_i} (\|U_{b:}\| + \|V_{b:}\|)         \quad (4)\\
    \ell &= \mathrm{CE}(f(x), y) + \mathrm{CE}(f_{i,b}(x), \mathrm{softmax} f(x)) + \lambda \dots          \quad (5)\\
    I_{i,b} &= \|U_{b:}\|\,\|V_{b:}\|, \qquad r_i \leftarrow \#\{b : I_{i,b} \ge \varepsilon\}             \quad (6)\\
    \text{deployed} &: U_{:r} V_{:r}^\top \text{ multiplied out iff } m n < r (m + n)                      \quad (7)

:math:`U_{b:}` are the columns from :math:`b` to the end; (1), (2) and (7) are :mod:`replicata.nn.factored`. Eq. (4) is
the authors' recipe for LeNet and ImageNet (``no_full_pass``), Eq. (5) their other one.

The theorem behind it, tested by :class:`LinearMaestro`: on a linear map whose inputs favour no direction, sampling
ends at :math:`U_{:b} V_{:b}^\top` = the best approximation of rank :math:`b`, for every :math:`b`.

Defaults of :math:`\lambda` and :math:`\varepsilon` are those of the official code. Departures: the lasso runs over the
components that are left, in the code over all of them; in both, cut ones stay parameters, so that
the optimizer's state keeps its meaning. :math:`\varepsilon` can be given relative to the mean importance at the start,
our choice for runs too short to come down to 1e-5. Cutting to a budget (:meth:`Compressible.cut`) is the paper's
greedy rule; that the validation split chooses between importances as they are and as shares of their layer is ours,
and holds for networks that were not trained for it as well. Attention, where each projection is factored alike, is
not covered.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from replicata.data.loaders import Batch
from replicata.metrics.cost import count_parameters
from replicata.metrics.sweep import recalibrate, sweep
from replicata.nn.factored import Factored, Init, Layer, deploy, factorise, layers_of, tails
from replicata.nn.surgery import replace
from replicata.tasks.image_classification import ImageClassification
from replicata.tasks.supervised import Regression, Supervised

Ranks = tuple[int, ...]


class OrderedFactors(Supervised):
    r"""Trains the factors of any model so that their components are ordered: Eqs. (1) to (4) and (6).

    Table ``ranks``: the rank of each layer after every epoch.

    Args:
        model: Its linear layers and convolutions are factored.
        sample: Whether a step cuts one layer (Eq. 2).
        group_lasso: :math:`\lambda` of Eq. (4), the trade-off between size and accuracy. Code: 5e-3, in its script
            for LeNet 1e-6. It acts on every step, so it has to grow as the number of steps falls.
        threshold: :math:`\varepsilon` of Eq. (6); 0 cuts nothing. Code: 1e-5.
        relative: Whether :math:`\varepsilon` is a share of the mean importance of all components at the start.
        init: ``svd`` is Eq. (1); ``default``: both factors start as linear layers do.
        **task: see :class:`~replicata.tasks.supervised.Supervised`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sample: bool = True,
        group_lasso: float = 5e-3,
        threshold: float = 1e-5,
        relative: bool = False,
        init: Init = "svd",
        **task: Any,
    ) -> None:
        for name, value in {"group_lasso": group_lasso, "threshold": threshold}.items():
            if value < 0:
                raise ValueError(f"method.{name} must be >= 0, got {value}")
        if init not in ("svd", "default"):
            raise ValueError(f"method.init must be svd or default, got {init!r}")
        super().__init__(model=model, **task)
        self.model = factorise(self.model, init)  # Eq. (1)
        self.layers = layers_of(self.model)
        if not self.layers:
            raise ValueError("model: it has no linear layer and no convolution that could be factored")
        self.sample, self.group_lasso = sample, group_lasso
        start = torch.cat([layer.importance() for layer in self.layers]).mean()
        self.threshold = threshold * start.item() if relative else threshold
        self.deck: list[tuple[int, int]] = []

    def draw(self) -> tuple[int, int] | None:
        """The next pair of Eq. (3): a layer with more components left comes more often."""
        if not self.deck:
            pairs = [(i, b) for i, layer in enumerate(self.layers) for b in range(1, layer.rank + 1)]
            # The search stream is the same on all processes, which must cut the same layer.
            order = torch.randperm(len(pairs), generator=self.streams.search.torch)
            self.deck = [pairs[k] for k in order.tolist()]
        return self.deck.pop() if self.deck else None  # None: nothing is left of any layer

    @contextmanager
    def cut_to(self, layer: int, components: int) -> Iterator[None]:
        """Eq. (2)."""
        self.layers[layer].sampled = components
        try:
            yield
        finally:
            self.layers[layer].sampled = None

    def augment(self, batch: Batch) -> Batch:
        batch = super().augment(batch)
        drawn = self.draw() if self.sample else None
        return batch if drawn is None else batch | {"drawn": torch.tensor(drawn)}

    def predict_batch(self, batch: Batch) -> Tensor:
        if "drawn" not in batch:
            return super().predict_batch(batch)
        with self.cut_to(*batch["drawn"].tolist()):
            return super().predict_batch(batch)

    def objective(self, batch: Batch, output: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Eq. (4); in evaluation the loss alone."""
        loss = super().objective(batch, output)
        if not self.training or not self.group_lasso:
            return loss
        assert isinstance(loss, Tensor)
        norms = torch.cat([tail for layer in self.layers for tail in layer.tails()])
        return {"fit": loss, "lasso": self.group_lasso * norms.sum()}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.trainer.is_last_batch:  # before the validation of the epoch
            self.shrink()

    @torch.no_grad()
    def shrink(self) -> None:
        """Eq. (6): what is kept is a prefix."""
        ranks = [int((layer.importance() >= self.threshold).sum()) for layer in self.layers]
        if ranks != [layer.rank for layer in self.layers]:
            self.deck.clear()
        for number, (layer, rank) in enumerate(zip(self.layers, ranks, strict=True), 1):
            layer.rank = rank
            self.record("ranks", [{"epoch": self.current_epoch + 1, "layer": number, "rank": rank}])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["replicata"]["deck"] = list(self.deck)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.deck = checkpoint["replicata"]["deck"]


class Compressible(ImageClassification):
    """A classifier that is cut to budgets of parameters once it is trained.

    Metrics: ``cost/params`` and, of one example, ``cost/macs`` of the network as it is deployed;
    ``test/acc_over_budgets``, the mean accuracy of its cuts to the budgets. A panel reports the cut to the size of
    :class:`Pufferfish`. Table ``cuts``: the network and each of its cuts with ``params``, ``macs`` and ``acc``.

    Args:
        model: A dense network.
        budgets: Shares of the dense network's parameters. Ours: 75 to 15 %.
        **task: see :class:`~replicata.tasks.image_classification.ImageClassification`.

    Attributes:
        title: Name of the network in the table ``cuts``.
        panel_name: Name of the panel.
    """

    title: ClassVar[str] = "Maestro"
    panel_name: ClassVar[str] = "matched"

    def __init__(
        self, model: nn.Module, *, budgets: Sequence[float] = (0.75, 0.5, 0.35, 0.25, 0.15), **task: Any
    ) -> None:
        if not budgets or not all(0 < budget <= 1 for budget in budgets):
            raise ValueError(f"method.budgets must be shares in (0, 1], got {list(budgets)}")
        super().__init__(model=model, **task)
        self.sizes = [budget * count_parameters(model) for budget in budgets]
        self.matched_size = pufferfish_size(model)

    def factored(self) -> nn.Module:
        """The trained network in factors, to be cut."""
        return self.model

    def deployed(self) -> nn.Module:
        """The trained network as it is shipped where no budget asks for less."""
        network = self.factored()
        return deploy(network, [layer.rank for layer in layers_of(network)])

    def importance(self, layer: Factored) -> Tensor:
        """What the components from each on are worth: non-increasing, :math:`(r)`."""
        return layer.importance()

    def cut(self, network: nn.Module, budget: float, relative: bool) -> Ranks:
        """Ranks once the least important last component was dropped over and over until the budget is kept.

        Args:
            network: A factored network.
            budget: Number of parameters.
            relative: Whether importances are shares of the importance of the whole layer.
        """
        layers = layers_of(network)
        ranks = [layer.rank for layer in layers]
        total = count_parameters(deploy(network, ranks))
        queue = []
        for number, layer in enumerate(layers):
            values = self.importance(layer)
            shares = values / values[:1] if relative else values
            queue += [(share, -b, number) for b, share in enumerate(shares.tolist())]
        for _, _, number in sorted(queue):
            if total <= budget:
                break
            ranks[number] -= 1
            total -= layers[number].size(ranks[number] + 1) - layers[number].size(ranks[number])
        return tuple(ranks)

    def on_validation_start(self) -> None:
        self.renew_statistics()

    def on_test_start(self) -> None:
        super().on_test_start()
        self.renew_statistics()

    def renew_statistics(self) -> None:
        """Those of batch normalisation: training collects them on cut networks and older weights."""
        if any(isinstance(layer, _BatchNorm) for layer in self.model.modules()):
            recalibrate(self.model, self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        network = self.factored()
        sizes = [*self.sizes, self.matched_size]
        pairs = [[self.cut(network, size, relative) for relative in (False, True)] for size in sizes]
        on_val = self.scores(network, [ranks for pair in pairs for ranks in pair], "val")
        chosen = [max(pair, key=lambda ranks: on_val[ranks]["acc"]) for pair in pairs]
        on_test = self.scores(network, chosen, "test")
        *within, matched = (on_test[ranks] for ranks in chosen)
        over_budgets = sum(row["acc"] for row in within) / len(within)

        whole = self.scores(self.deployed(), [()], "test")[()]
        self.log_dict({f"cost/{name}": float(whole[name]) for name in ("params", "macs")})
        self.log("test/acc_over_budgets", over_budgets)
        panel = {"test/acc": matched["acc"], "cost/params": matched["params"], "test/acc_over_budgets": over_budgets}
        self.report(self.panel_name, panel)
        rows = [{name: row[name] for name in ("params", "macs", "acc")} for row in (whole, *on_test.values())]
        self.record("cuts", [{"network": self.title, **row} for row in rows])

    def scores(self, network: nn.Module, codes: Sequence[Ranks], split: str) -> dict[Ranks, dict[str, Any]]:
        """Accuracy and costs of a factored network at each of some ranks; with no ranks it stays as it is."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = sweep(
            network,
            list(dict.fromkeys(codes)),
            data.val_dataloader() if split == "val" else data.test_dataloader(),
            data.train_dataloader(),
            select=lambda network, ranks: deploy(network, ranks) if ranks else network,
            metrics=self.metrics(split).to(self.device),
        )
        return {row["code"]: row for row in rows}


class Maestro(OrderedFactors, Compressible):
    """The method on classification.

    Args:
        model: A dense network, which is factored.
        full_pass: Eq. (5) instead of (4): the whole network learns from the labels, and the cut one from it.
        **method: see :class:`OrderedFactors` and :class:`Compressible`.

    Shapes:
        - ``batch["x"]``: :math:`(B, *)`, as the model takes it; ``batch["y"]``: :math:`(B)` class ids.
    """

    def __init__(self, model: nn.Module, *, full_pass: bool = False, **method: Any) -> None:
        super().__init__(model=model, **method)
        self.full_pass = full_pass

    def objective(self, batch: Batch, output: Tensor) -> Tensor | Mapping[str, Tensor]:
        if not self.training or not self.full_pass:
            return super().objective(batch, output)
        full = self(batch["x"])
        loss = super().objective(batch | {"y": full.detach().softmax(1)}, output)
        losses = {"fit": loss} if isinstance(loss, Tensor) else loss
        return {"full": F.cross_entropy(full, batch["y"]), **losses}  # Eq. (5)


class LinearMaestro(OrderedFactors, Regression):
    r"""The method on a linear map, with a model of one layer: the theorem says what it must find.

    Metrics: ``test/svd_relerr`` = the largest :math:`\|f_b(X) - Y_b\|^2 / \|Y\|^2` over all :math:`b`, with
    :math:`f_b` the map of the first :math:`b` components and :math:`Y_b` the best approximation of rank :math:`b`;
    ``test/components``, the number of components whose :math:`\|u_b\|\,\|v_b\|` is at least a hundredth of the
    largest. Tables ``relerr`` and ``importance``: these by step, beside the singular values of the map.

    Shapes:
        - ``batch["x"]``: :math:`(B, F)`; ``batch["y"]``: :math:`(B, G)`.
    """

    def targets(self) -> tuple[Tensor, Tensor]:
        train = self.trainer.datamodule.splits["train"]  # type: ignore[attr-defined]
        return train["x"].to(self.device), train["y"].to(self.device)

    @torch.no_grad()
    def errors(self) -> list[float]:
        """Relative squared distance from the best approximation, by rank."""
        x, y = self.targets()
        p, s, qt = torch.linalg.svd(y, full_matrices=False)
        found = []
        for b in range(1, self.layers[0].rank + 1):
            with self.cut_to(0, b):
                found.append(float((self(x) - (p[:, :b] * s[:b]) @ qt[:b]).square().sum() / y.square().sum()))
        return found

    @torch.no_grad()
    def norms(self) -> Tensor:
        u, v = self.layers[0].norms()
        return u * v

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        x, y = self.targets()
        step, true = self.global_step, torch.linalg.svdvals(torch.linalg.pinv(x) @ y)
        self.record("relerr", [{"step": step, "rank": b, "relerr": e} for b, e in enumerate(self.errors(), 1)])
        for name, values in {"component": self.norms(), "singular value": true}.items():
            rows = [{"step": step, "series": f"{name} {b}", "value": v} for b, v in enumerate(values.tolist(), 1)]
            self.record("importance", rows)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        norms = self.norms()
        self.log("test/svd_relerr", max(self.errors()))
        self.log("test/components", (norms >= norms.max() / 100).sum().float())


# Baselines ----------------------------------------------------------------------------------


class Dense(Compressible):
    """The full network; its panel ``svd_posthoc`` is the truncated SVD of the trained weights."""

    title = "SVD after training"
    panel_name = "svd_posthoc"

    def factored(self) -> nn.Module:
        return factorise(copy.deepcopy(self.model))

    def deployed(self) -> nn.Module:
        return self.model

    def importance(self, layer: Factored) -> Tensor:
        """The energy of the singular values from each on, as a norm."""
        u, v = layer.norms()
        return tails((u * v).square())


class Pufferfish(Compressible):
    """Wang, Agarwal, Papailiopoulos, MLSys 2021 (https://arxiv.org/abs/2103.03936): ranks fixed beforehand.

    The dense network is trained for some epochs; then all layers but the first and the last are replaced by the
    truncated SVD of their weights at a quarter of the rank, and training goes on.

    Args:
        model: A dense network.
        warmup_epochs: Epochs before the replacement.
        **method: see :class:`Compressible`.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"  # one of a layer's two forms has no gradient
    title = "Pufferfish"

    def __init__(self, model: nn.Module, *, warmup_epochs: int, **method: Any) -> None:
        if warmup_epochs < 0:
            raise ValueError(f"method.warmup_epochs must be >= 0, got {warmup_epochs}")
        super().__init__(model=model, **method)
        self.warmup_epochs = warmup_epochs
        inner: set[nn.Module] = set(inner_layers(model))
        self.model = replace(
            self.model, lambda _, layer: Warmed(layer) if layer in inner and isinstance(layer, Layer) else None
        )

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == self.warmup_epochs:
            for layer in self.model.modules():
                if isinstance(layer, Warmed) and not layer.factored:
                    layer.switch()

    def factored(self) -> nn.Module:
        return replace(
            copy.deepcopy(self.model), lambda _, layer: layer.current() if isinstance(layer, Warmed) else None
        )


class Warmed(nn.Module):
    """A layer that is dense first, and in factors at a quarter of its rank from :meth:`switch` on.

    Both forms are there from the start, so that the optimizer and its schedule need not be made anew.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.dense, self.factors = layer, Factored.of(layer, quarter(layer))
        self.factored = False

    def current(self) -> nn.Module:
        return self.factors if self.factored else self.dense

    def forward(self, x: Tensor) -> Tensor:
        return self.current()(x)

    @torch.no_grad()
    def switch(self) -> None:
        start = Factored.of(self.dense, quarter(self.dense))
        self.factors.u.copy_(start.u)
        self.factors.v.copy_(start.v)
        self.factored = True

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.factored)

    def set_extra_state(self, state: Tensor) -> None:
        self.factored = bool(state)


def inner_layers(model: nn.Module) -> list[Layer]:
    """The linear layers and convolutions between the first and the last."""
    return [layer for layer in model.modules() if isinstance(layer, Layer)][1:-1]


def quarter(layer: Layer) -> int:
    """A quarter of the rank of a layer."""
    return max(1, min(layer.weight.flatten(1).shape) // 4)


def pufferfish_size(model: nn.Module) -> int:
    """Parameters of a dense network once :class:`Pufferfish` has factored it."""
    shapes = [(quarter(layer), *layer.weight.flatten(1).shape) for layer in inner_layers(model)]
    return count_parameters(model) - sum(m * n - min(m * n, rank * (m + n)) for rank, m, n in shapes)

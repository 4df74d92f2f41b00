r"""DeepArchitect: Automatically Designing and Training Deep Architectures.

Negrinho, Gordon, 2017. https://arxiv.org/abs/1704.08792
Official code: https://github.com/negrinho/deep_architect_legacy

A small language (:mod:`.language`) composes modules with open hyper-parameters into a search space; any fully
specified model compiles to a network. A space unrolls as a tree, one choice a level, so random search, Monte Carlo
tree search (MCTS) and model-based optimisation (SMBO) run on one interface (:mod:`.searchers`).

Let a node :math:`v` of the tree have :math:`n_v` visits with scores that sum to :math:`s_v`. MCTS walks from the root
to the first node without visits by

.. math::
    \arg\max_{u \in \mathrm{children}(v)}\ \frac{s_u}{n_u} + c \sqrt{\frac{2 \ln n_v}{n_u}},
        \qquad \infty \text{ where } n_u = 0,                                                          \quad (1)

finishes the model by uniform choices, and adds its score :math:`y` to all nodes of the walk, not to the rest:

.. math::
    n_v \leftarrow n_v + 1, \qquad s_v \leftarrow s_v + y.                                             \quad (2)

With bisection a choice among :math:`k` ordered values becomes :math:`\lceil \log_2 k \rceil` binary ones, whose
nodes share statistics between neighbours. SMBO describes a model by its number of basic modules and the counts of
n-grams of its modules, up to four long and seen three times in the models evaluated so far,

.. math::
    x(m) = \big(|m|,\ \#_1(m),\ \dots,\ \#_F(m)\big),                                                  \quad (3)

fits a ridge regression to all scores, and evaluates, of 50 random models, one at random with probability 1/4 and
else the most promising:

.. math::
    \min_{w, b}\ \sum_i \big(y_i - w^\top x(m_i) - b\big)^2 + \lambda \|w\|^2, \qquad \lambda = 1000.  \quad (4)

Sources of defaults: language, searchers, their constants, spaces and evaluator are those of the authors' code;
:math:`c = 0.5` and no random start of SMBO are those of its experiments. Its n-grams are of module types alone, so that
the surrogate sees depth, order and dropout, and neither filters nor learning rate. ``surrogate=full`` is ours: each
chosen value is a word of its own, (type, name, value), because all values of a module together would hardly occur
three times.

Departures: shapes are PyTorch's (C, H, W). There is no scope: it names TensorFlow's variables, and published
hyper-parameters are read off the model. A model's score is that of its last weights (the code restores better ones
now and then), and convolutions start He-normal by fan-in (the code divides by the number of weights). Time limits are
epochs. The laptop study has the paper's grammar on 8x8 digits with smaller domains; the hyper-parameters searched are
optimiser, learning rate and batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.errors import nearest
from replicata.methods.search.deep_architect.language import (
    ChoiceBisection,
    Concat,
    Module,
    Space,
    UserHyperparams,
    published,
)
from replicata.methods.search.deep_architect.searchers import (
    Choices,
    RandomSearch,
    Searcher,
    SurrogateSearch,
    TreeSearch,
)
from replicata.optim.nested import Plateau, fit_classifier
from replicata.streams import Stream
from replicata.tasks.search import Search

HYPERPARAMETERS = ("optimizer", "lr", "batch_size", "rate_mult", "rate_patience")


class DeepArchitect(Search):
    r"""Search for a classifier, with the hyper-parameters of its training in front of the space.

    Metrics beside those of :class:`~replicata.tasks.search.Search`: ``val/share_<t>``, the share of evaluated models
    whose accuracy is above ``t`` per cent. Table ``thresholds``: the same by threshold.

    Args:
        space: Program of the network, ending in ``num_classes`` units.
        in_shape: Channels, height and width :math:`[C, H, W]` of an image.
        num_classes: Number of classes.
        hyperparameters: Values by name: ``optimizer`` (``adam``, ``sgd_mom``), ``lr``, ``batch_size``, ``rate_mult``
            and ``rate_patience`` (see :class:`~replicata.optim.nested.Plateau`; both or neither).
        searcher: ``random``, ``mcts`` or ``smbo``.
        bisect: Whether the space is searched by bisection.
        exploration: :math:`c` of Eq. (1).
        surrogate: Words of Eq. (3): ``types`` or ``full``.
        epochs: Passes over the data in a training.
        momentum: Of ``sgd_mom``. Authors: 0.99; 0.9 at laptop scale.
        augment: Whether training images are cropped at random from 4 pixels of padding, and flipped.
        whiten: Whether pixels are standardised by their mean and deviation over the training images.
        thresholds: Accuracies of ``val/share_<t>``.
        **search: see :class:`~replicata.tasks.search.Search`.

    Shapes:
        - ``x``: :math:`(N, C, H, W)`; ``y``: :math:`(N)` class ids.
    """

    def __init__(
        self,
        space: Module,
        in_shape: Sequence[int],
        num_classes: int,
        hyperparameters: Mapping[str, Sequence[Any]],
        *,
        searcher: Literal["random", "mcts", "smbo"] = "mcts",
        bisect: bool = True,
        exploration: float = 0.5,
        surrogate: Literal["types", "full"] = "types",
        epochs: int = 3,
        momentum: float = 0.9,
        augment: bool = False,
        whiten: bool = False,
        thresholds: Sequence[float] = (),
        **search: Any,
    ) -> None:
        _check(hyperparameters)
        if searcher not in ("random", "mcts", "smbo"):
            raise ValueError(f"method.searcher must be random, mcts or smbo, got {searcher!r}")
        if surrogate not in ("types", "full"):
            raise ValueError(f"method.surrogate must be types or full, got {surrogate!r}")
        if exploration < 0:
            raise ValueError(f"method.exploration must be >= 0, got {exploration}")
        if epochs < 1:
            raise ValueError(f"method.epochs must be at least 1, got {epochs}")
        super().__init__(**search)
        self.num_classes, self.epochs, self.momentum = num_classes, epochs, momentum
        self.augmented, self.whiten, self.thresholds = augment, whiten, list(thresholds)
        program: Module = Concat([UserHyperparams(**hyperparameters), space])
        self.space = Space(ChoiceBisection(program) if bisect else program, in_shape)
        self.searcher: Searcher
        if searcher == "random":
            self.searcher = RandomSearch(self.space)
        elif searcher == "mcts":
            self.searcher = TreeSearch(self.space, exploration)
        else:
            self.searcher = SurrogateSearch(self.space, surrogate)

    def propose(self, item: int) -> Choices:
        return self.searcher.propose(self.streams.search.at(item).numpy)

    def observe(self, spec: Choices, score: float) -> None:
        self.searcher.observe(spec, score)

    def content(self, spec: Choices) -> list[Any]:
        """The code of the model: different choices, such as those of a bisection, may lead to one model."""
        return self.space.build(spec).code()

    def conditions(self) -> Mapping[str, Any]:
        names = ("epochs", "momentum", "augmented", "whiten")
        return {name: getattr(self, name) for name in names}

    # Evaluation ----------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.data = {
            name: {key: self.split(name)[key].to(self.device) for key in ("x", "y")}
            for name in ("train", "val", "test")
        }
        if self.whiten:
            pixels = self.data["train"]["x"]
            mean, deviation = pixels.mean(0), pixels.std(0).clamp_min(1e-8)
            for split in self.data.values():
                split["x"] = (split["x"] - mean) / deviation

    def evaluate(self, spec: Choices, stream: Stream) -> Mapping[str, float]:
        model = self.space.build(spec)
        chosen = published(model)
        plateau = Plateau(chosen["rate_mult"], chosen["rate_patience"]) if "rate_mult" in chosen else None
        return fit_classifier(
            model.compile,
            self.optimizer(chosen["optimizer"], chosen["lr"]),
            self.data["train"],
            {"val": self.data["val"], "test": self.data["test"]},
            epochs=self.epochs,
            batch_size=chosen["batch_size"],
            stream=stream,
            augment=crop_and_flip if self.augmented else None,
            plateau=plateau,
        )

    def optimizer(self, name: str, lr: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
        if name == "adam":
            return partial(torch.optim.Adam, lr=lr, fused=True)
        return partial(torch.optim.SGD, lr=lr, momentum=self.momentum, fused=True)

    def finish(self) -> Mapping[str, float]:
        scores = [score for _, score in self.history]
        shares = {t: sum(score > t for score in scores) / len(scores) for t in self.thresholds}
        self.record("thresholds", [{"threshold": t, "share": share} for t, share in shares.items()])
        return {**super().finish(), **{f"val/share_{100 * t:g}": share for t, share in shares.items()}}


def _check(hyperparameters: Mapping[str, Sequence[Any]]) -> None:
    """Refuse what the evaluator does not know, by its name in the config."""
    for name in hyperparameters:
        if name not in HYPERPARAMETERS:
            raise ValueError(f"method.hyperparameters.{name}: not known; {nearest(name, HYPERPARAMETERS)}")
    for name in ("optimizer", "lr", "batch_size"):
        if name not in hyperparameters:
            raise ValueError(f"method.hyperparameters.{name} is needed, with at least one value")
    if not {*hyperparameters["optimizer"]} <= {"adam", "sgd_mom"}:
        raise ValueError(f"method.hyperparameters.optimizer: adam, sgd_mom; got {list(hyperparameters['optimizer'])}")
    if ("rate_mult" in hyperparameters) != ("rate_patience" in hyperparameters):
        raise ValueError("method.hyperparameters needs both rate_mult and rate_patience, or neither")


def crop_and_flip(x: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Move each image of :math:`(B, C, H, W)` by up to ``pad`` pixels, zeros from outside, and flip half of them."""
    size, (height, width) = len(x), x.shape[-2:]
    top, left = torch.randint(2 * pad + 1, (2, size, 1), generator=generator).to(x.device)
    flip = (torch.rand(size, 1, generator=generator) < 0.5).to(x.device)
    rows = top + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(size, -1)
    columns = left + torch.where(flip, width - 1 - columns, columns)
    moved = F.pad(x, [pad] * 4)[
        torch.arange(size, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None]
    ]
    return moved.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

"""Training small classifiers inside a larger procedure, without a trainer for each.

A search trains thousands of networks for tenths of a second; the set-up of a Lightning loop would cost as much again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.streams import Stream

Split = Mapping[str, Tensor]


@dataclass(frozen=True)
class Plateau:
    """A learning rate that falls, and training that stops, while validation accuracy does not rise.

    Attributes:
        factor: Multiplies the learning rate after ``patience`` epochs without a new best accuracy.
        stop: Epochs without a new best accuracy after which training ends.
        floor: Least learning rate.
    """

    factor: float
    patience: int
    stop: int = 64
    floor: float = 1e-9


@contextmanager
def seeded(stream: Stream, device: torch.device) -> Iterator[None]:
    """Let layers that know only the global generators (initialisers, dropout) draw from a stream."""
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.random.fork_rng([device]))
            torch.cuda.manual_seed(int(torch.randint(2**62, (), generator=stream.torch)))
        stack.enter_context(stream.as_global())
        yield


def fit_classifier(
    build: Callable[[], nn.Module],
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    train: Split,
    evaluate: Mapping[str, Split],
    *,
    epochs: int,
    batch_size: int,
    stream: Stream,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    plateau: Plateau | None = None,
) -> dict[str, float]:
    """Train a network by cross-entropy, and score its last weights.

    The result is a function of the arguments: build, order, dropout and augmentation draw from keyed children of
    ``stream``, whatever was drawn from it before.

    Args:
        build: Makes the network; its initial weights are drawn in here.
        optimizer: ``parameters -> optimizer``.
        train: ``x`` :math:`(N, *)` and ``y`` :math:`(N)`, on the device that the training is to use.
        evaluate: Splits by name; ``val`` is watched by ``plateau``.
        epochs: Passes over ``train``, at most.
        batch_size: Rows of a batch; a last batch that is not full is left out, unless it is the only one.
        stream: Where all randomness is derived from.
        augment: ``(x, generator) -> x`` for each training batch.
        plateau: ``None``: a constant learning rate and all epochs.

    Returns:
        Accuracy by split.
    """
    x, y = train["x"], train["y"]
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    order = stream.at(1)
    with torch.enable_grad(), seeded(stream.at(0), x.device):
        model = build().to(x.device)
        if x.ndim == 4:
            model.to(memory_format=torch.channels_last)
        rule = optimizer(model.parameters())
        best, stale = -1.0, 0
        for _ in range(epochs):
            model.train()
            shuffled = torch.randperm(len(y), generator=order.torch).to(x.device)
            for rows in shuffled.split(batch_size):
                if len(rows) < min(batch_size, len(y)):
                    break
                batch = x[rows] if augment is None else augment(x[rows], order.torch)
                rule.zero_grad()
                F.cross_entropy(model(batch), y[rows]).backward()
                rule.step()
            if plateau is None:
                continue
            score = accuracy(model, evaluate["val"])
            best, stale = (score, 0) if score > best else (best, stale + 1)
            if stale >= plateau.stop:
                break
            if stale and stale % plateau.patience == 0:
                for group in rule.param_groups:
                    group["lr"] = max(group["lr"] * plateau.factor, plateau.floor)
    return {name: accuracy(model, split) for name, split in evaluate.items()}


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, rows: int = 1000) -> float:
    """Share of rows whose largest output is that of their class; puts the network into eval mode."""
    model.eval()
    pairs = zip(split["x"].split(rows), split["y"].split(rows), strict=True)
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs) / len(split["y"])

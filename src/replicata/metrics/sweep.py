"""Scores and costs of many networks that share their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torchmetrics import MetricCollection

from replicata.metrics.cost import MACs, count_parameters

Code = TypeVar("Code")
Batches = Iterable[Mapping[str, Tensor]]


def recalibrate(model: nn.Module, batches: Batches) -> None:
    """Renew the running statistics of batch normalisation: the plain mean over one pass, all batches alike.

    The statistics that training left belong to other weights (or, of a network with shared weights, to a mixture of
    networks). Without batch normalisation nothing is computed.

    Args:
        model: Takes ``batch["x"]``; it stays in the mode, training or not, in which it was.
        batches: Training batches.
    """
    update_bn((batch["x"] for batch in batches), model)


def sweep(
    model: nn.Module,
    codes: Iterable[Code],
    loader: Batches,
    recalibrate_on: Batches | None = None,
    *,
    select: Callable[[nn.Module, Code], nn.Module],
    metrics: MetricCollection,
) -> list[dict[str, Any]]:
    """Evaluate every network that a code selects from a model.

    Args:
        model: The model that holds the weights of all.
        codes: What the networks are called: ranks, widths, gates, stitches.
        loader: Batches with ``x`` and ``y``; it is walked once per code.
        recalibrate_on: Training batches on which the statistics of batch normalisation are renewed for each code;
            the model has its own back afterwards.
        select: ``(model, code) -> network``: a static copy, or the model itself set to the code.
        metrics: Scores over (output, target); reset before and after.

    Returns:
        One row per code: ``code``, the scores by name, ``params`` of the network that was selected and ``macs`` of
        one example.
    """
    rows: list[dict[str, Any]] = []
    for code in codes:
        network = select(model, code)
        training = network.training
        with _statistics_kept(network), torch.no_grad():
            if recalibrate_on is not None:
                recalibrate(network, recalibrate_on)
            network.eval()
            metrics.reset()
            macs = 0
            for number, batch in enumerate(loader):
                if number == 0:
                    with MACs(network) as counted:
                        network(batch["x"][:1])
                    macs = counted.total
                metrics.update(network(batch["x"]), batch["y"])
            scores = {name: float(value) for name, value in metrics.compute().items()}
        network.train(training)
        rows.append({"code": code, **scores, "params": count_parameters(network), "macs": macs})
    metrics.reset()
    return rows


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    kept = [{name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)} for layer in layers]
    try:
        yield
    finally:
        for layer, buffers in zip(layers, kept, strict=True):
            for name, buffer in buffers.items():
                getattr(layer, name).copy_(buffer)

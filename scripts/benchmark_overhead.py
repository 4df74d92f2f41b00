"""What the training loop costs: ours, plain Lightning and a bare PyTorch loop, side by side in one process.

    python scripts/benchmark_overhead.py [--repeats 5]

An MLP on scikit-learn's digits at batch 32 (a step takes some hundred microseconds, so the loop is what
is measured), and the same with a network whose step takes about ten milliseconds. Ours is what
``replicata run`` executes, with metrics, progress and the csv logger on. Every round runs all loops in
turn; the table gives the median over rounds of bare seconds / loop seconds.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from replicata.run.compose import compose
from replicata.run.execute import execute, prepare
from replicata.run.identity import resolved

BATCH = 32


def network(hidden: int) -> nn.Module:
    hidden_layers = (nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden_layers, nn.Linear(hidden, 10))


def overrides(hidden: int, epochs: int, folder: str) -> list[str]:
    return [
        f"paths.outputs={folder}",
        f"paths.cache={folder}",
        "data=vision/digits",
        f"data.batch_size={BATCH}",
        "model=mlp",
        f"model.widths=[{hidden},{hidden}]",
        f"trainer.max_epochs={epochs}",
        "trainer.limit_val_batches=0",
        "test=none",
    ]


def ours(hidden: int, epochs: int) -> tuple[float, int]:
    """Seconds of ``fit`` and number of steps, through the runner's own parts."""
    with tempfile.TemporaryDirectory() as folder:
        config = resolved(compose(overrides(hidden, epochs, folder)))
        OmegaConf.update(config, "name", "benchmark")
        prepared = prepare(config, Path(folder), {})
        record = execute(config, Path(folder), prepared, resume=False)
        return record["fit_seconds"], record["batches"]


def digits() -> tuple[Tensor, Tensor]:
    """The very training rows that ours sees."""
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(resolved(compose(overrides(8, 1, folder))), Path(folder), {}).data
    return data.splits["train"]["x"], data.splits["train"]["y"]


def bare(x: Tensor, y: Tensor, hidden: int, epochs: int) -> float:
    model = network(hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    started = time.perf_counter()
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - started


class Plain(pl.LightningModule):
    """As most people write it: a DataLoader, a metric, two values logged at every step."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.model = network(hidden)
        self.acc = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        output = self.model(x)
        loss = F.cross_entropy(output, y)
        self.acc(output, y)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Stripped(Plain):
    """Lightning's loop with nothing in it."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)


class Indexed:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return math.ceil(len(self.x) / BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(self.x)).split(BATCH):
            yield self.x[index], self.y[index]


def lightning(module: pl.LightningModule, loader: object, epochs: int, bar: bool) -> float:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bar,
    )
    started = time.perf_counter()
    trainer.fit(module, loader)
    return time.perf_counter() - started


def measure(hidden: int, epochs: int, repeats: int) -> None:
    x, y = digits()
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    loops: dict[str, Callable[[], float]] = {
        "replicata": lambda: ours(hidden, epochs)[0],
        "lightning, stripped, index batches": lambda: lightning(Stripped(hidden), Indexed(x, y), epochs, False),
        "lightning, DataLoader, metrics, logging": lambda: lightning(Plain(hidden), loader, epochs, True),
    }
    ratios: dict[str, list[float]] = {name: [] for name in loops}
    steps = epochs * math.ceil(len(x) / BATCH)
    seconds = []
    for loop in loops.values():  # a warm-up of each
        loop()
    for _ in range(repeats):
        for name, loop in loops.items():
            before = bare(x, y, hidden, epochs)
            taken = loop()
            after = bare(x, y, hidden, epochs)
            ratios[name].append((before + after) / 2 / taken)
            seconds += [before, after]
    print(f"hidden {hidden}: a bare step takes {statistics.median(seconds) / steps * 1e6:.0f} us")
    print(f"  {'bare PyTorch':<42}1.00")
    for name, values in ratios.items():
        print(f"  {name:<42}{statistics.median(values):.2f}   ({min(values):.2f} to {max(values):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), batch {BATCH}; bare seconds / loop seconds")
    measure(hidden=64, epochs=20, repeats=arguments.repeats)
    measure(hidden=1400, epochs=8, repeats=max(arguments.repeats // 2, 2))


if __name__ == "__main__":
    main()

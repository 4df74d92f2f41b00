"""A package outside Replicata with a method, a model and data of its own, as a user would write them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from replicata.data.module import TensorDataModule
from replicata.streams import Stream
from replicata.tasks.procedure import Procedure
from replicata.tasks.supervised import Classification


class Blobs(TensorDataModule):
    """Gaussian blobs, one a class."""

    def __init__(self, num_classes: int, in_features: int, n: int = 400, **rest: Any) -> None:
        super().__init__(**rest)
        self.num_classes, self.in_features, self.n = num_classes, in_features, n

    def load(self) -> dict[str, dict[str, Tensor]]:
        stream = Stream(7)
        y = torch.arange(self.n) % self.num_classes
        centres = torch.randn(self.num_classes, self.in_features, generator=stream.torch)
        noise = torch.randn(self.n, self.in_features, generator=stream.torch)
        return {"train": {"x": centres[y] + noise, "y": y}}

    def facts(self) -> dict[str, Any]:
        x, y = self.splits["train"]["x"], self.splits["train"]["y"]
        return {"num_classes": int(y.max()) + 1, "in_features": x.shape[1]}


class Net(nn.Sequential):
    """A small network with dropout and batch statistics: both are state that a checkpoint must carry."""

    def __init__(self, in_features: int, hidden: int, num_classes: int) -> None:
        super().__init__(
            nn.Linear(in_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden, num_classes),
        )


class Noisy(Classification):
    """Trains on noisy inputs; starts from its stages' weights where it has stages.

    Args:
        sigma: Standard deviation of the noise.
        pause: Seconds to sleep in a step, so that tests can interrupt it.
        poison: Batch at which the loss becomes NaN; -1: never.
        **task: see Classification.
    """

    def __init__(self, sigma: float = 0.1, pause: float = 0.0, poison: int = -1, **task: Any) -> None:
        if sigma < 0:
            raise ValueError(f"method.sigma must be >= 0, got {sigma}")
        super().__init__(**task)
        self.sigma, self.pause, self.poison = sigma, pause, poison

    def configure_model(self) -> None:
        for stage in self.stages.values():
            self.model.load_state_dict(stage.module().state_dict())

    def augment(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        time.sleep(self.pause)
        noise = torch.randn(batch["x"].shape, generator=self.streams.noise.torch)
        self.record("noise", [{"batch": self.trainer.fit_loop.epoch_loop.total_batch_idx, "norm": float(noise.norm())}])
        return batch | {"x": batch["x"] + self.sigma * noise}

    def objective(self, batch: dict[str, Tensor], output: Tensor) -> Any:
        loss = super().objective(batch, output)
        if self.training and self.trainer.fit_loop.epoch_loop.total_batch_idx == self.poison:
            return loss * float("nan")
        return loss


class Doomed(Noisy):
    """Comes to a bad end in the middle of training.

    Args:
        end: ``raise``, or ``kill``: as the kernel does it when memory runs out.
        times: How often, until it is left to finish.
        **rest: see Noisy.
    """

    def __init__(self, end: str = "raise", times: int = 1000, **rest: Any) -> None:
        super().__init__(**rest)
        self.end, self.times = end, times

    def augment(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        deaths = Path(self.trainer.default_root_dir) / "deaths"
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == 2 and len(list(deaths.glob("*"))) < self.times:
            deaths.mkdir(exist_ok=True)
            (deaths / f"{len(list(deaths.glob('*')))}").touch()
            if self.end == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the third batch is cursed\nand more about that")
        return super().augment(batch)


class TwoOptimizers(Noisy):
    """Manual optimization with one optimizer for each half of the parameters."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        assert self.make_optimizer is not None
        parameters = list(self.parameters())
        return [self.make_optimizer(parameters[::2]), self.make_optimizer(parameters[1::2])]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        loss = super().training_step(batch, batch_idx)
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()


class Walk(Procedure):
    """A random walk: no optimizer, and every unit needs the one before."""

    def __init__(self, steps: int = 20, pause: float = 0.0, **task: Any) -> None:
        super().__init__(**task)
        self.steps, self.pause, self.place = steps, pause, 0.0

    def units(self) -> int:
        return self.steps

    def work(self, item: int) -> Mapping[str, float]:
        time.sleep(self.pause)
        self.place += float(self.streams.search.numpy.normal())
        return {"test/place": self.place}

    def finish(self) -> Mapping[str, float]:
        return {"test/place": self.place, "test/mean": super().finish()["test/place"]}

    def state(self) -> dict[str, Any]:
        return {"place": self.place}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.place = state["place"]


class Draw(Callback):
    """Leaves a figure beside the record, and reports a variant."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        folder = Path(trainer.default_root_dir) / "figures"
        folder.mkdir(exist_ok=True)
        from matplotlib import image

        image.imsave(folder / "square.png", torch.rand(4, 4).numpy())
        pl_module.report("half", {"test/acc": 0.5})

"""GradientStatistics: how large the gradients are, and how much their size varies."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer


class GradientStatistics(Callback):
    """Euclidean norm of the whole gradient, before clipping, and its spread within windows of steps.

    It adds the table ``gradients`` (``step``, counted in optimizer steps from 1, and ``norm``) and logs
    ``train/grad_norm_log_std``: the standard deviation of the norm's natural logarithm within a window, averaged
    over the full windows so far.

    Args:
        window: Optimizer steps in a window.
        every: Measure at every so many steps; a window must hold at least two measurements.
    """

    def __init__(self, window: int = 100, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"callbacks.gradient_statistics.every must be at least 1, got {every}")
        if window < 2 * every:
            raise ValueError(f"callbacks.gradient_statistics.window must be at least {2 * every}, got {window}")
        self.window, self.every = window, every
        self.step = 0
        self.spreads: list[float] = []
        self._open: list[tuple[int, Tensor]] = []  # of the window that is not full yet; read together, at its end

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.step += 1
        if self.step % self.every == 0:
            gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            self._open.append((self.step, torch.nn.utils.get_total_norm(gradients)))
        if self.step % self.window == 0:
            self._close(pl_module)

    def _close(self, pl_module: Any) -> None:
        steps = [step for step, _ in self._open]
        norms = torch.stack([norm for _, norm in self._open]).double().cpu()
        self._open.clear()
        pl_module.record("gradients", [{"step": s, "norm": n} for s, n in zip(steps, norms.tolist(), strict=True)])
        # A gradient of zero (a dead network) has no logarithm; the smallest float stands for it.
        logarithms = norms.clamp_min(torch.finfo(torch.float32).tiny).log()
        self.spreads.append(float(logarithms.std()))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.spreads:
            pl_module.log("train/grad_norm_log_std", sum(self.spreads) / len(self.spreads))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "spreads": self.spreads, "open": self._open}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.spreads = state_dict["step"], state_dict["spreads"]
        self._open = [(step, norm) for step, norm in state_dict["open"]]

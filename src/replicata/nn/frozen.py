"""Frozen: a trained network that others learn from and that must not change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn


class Frozen(nn.Module):
    """A network in eval mode, without gradients, that the module holding it does not count as its own.

    It moves with its holder between devices and precisions, and is in neither the holder's ``parameters()`` nor its
    ``state_dict()``: no optimizer, checkpoint or data-parallel wrapper sees it. Calling ``train()`` on the holder
    leaves its batch statistics alone.

    Args:
        module: The network; its parameters no longer require gradients.

    Attributes:
        module: The network.
    """

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["module"] = module.eval().requires_grad_(False)  # past nn.Module's registration of children

    def forward(self, *inputs: Any, **options: Any) -> Any:
        with torch.no_grad():
            return self.module(*inputs, **options)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self.module._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def checksum(self) -> str:
        """SHA-256 over names and bytes of all weights and buffers: equal exactly as long as nothing changed."""
        digest = hashlib.sha256()
        for name, value in self.module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

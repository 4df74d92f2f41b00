"""Rows of all processes that train together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; with one process ``x`` itself.

    Gradients reach the process a row comes from, summed over all that used it: if every process computes one and the
    same loss of all rows, the mean of the processes' gradients by the weights is that loss's gradient.

    Args:
        x: :math:`(B_r, *)`, alike in all but the first size.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    counts = [int(size) for size in sizes]
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    if x.requires_grad:
        from torch.distributed.nn.functional import all_gather

        parts = list(all_gather(padded))
    else:
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded.contiguous())
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

"""Named random streams: one per role, each derived from (seed, role), never the global generators.

A method that draws more noise than another does not shift the other's data order or
initial weights: arms of a study pair by seed, and an ablation whose knob is at zero equals
its baseline bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import numpy as np
import torch

ROLES = ("split", "order", "init", "noise", "env", "search")
PER_RANK = frozenset({"noise", "env"})  # the other roles must agree on all processes


class Stream:
    """The randomness of one role, for NumPy and for torch.

    Attributes:
        numpy: A :class:`numpy.random.Generator`.
        torch: A CPU :class:`torch.Generator`; draw there and move the result.
    """

    def __init__(self, *key: int) -> None:
        self.key = key
        sequence = np.random.SeedSequence(key)
        self.numpy = np.random.Generator(np.random.PCG64(sequence))
        self.torch = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def at(self, *key: int) -> Stream:
        """A fresh stream for one epoch, step or item: a function of the key alone, not of past draws."""
        return Stream(*self.key, *key)

    @contextmanager
    def as_global(self) -> Iterator[None]:
        """Run torch code that knows only the global CPU generator (layer initialisers) on this stream."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self.torch.get_state())
        try:
            yield
        finally:
            self.torch.set_state(torch.get_rng_state())
            torch.set_rng_state(outside)

    def state_dict(self) -> dict[str, Any]:
        return {"numpy": json.dumps(self.numpy.bit_generator.state), "torch": self.torch.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.numpy.bit_generator.state = json.loads(state["numpy"])
        self.torch.set_state(state["torch"])


class Streams:
    """The streams of one run, as attributes: ``split, order, init, noise, env, search``.

    Args:
        seed: The run's seed.
        rank: Process in a data-parallel run; ``noise`` and ``env`` differ between ranks,
            and rank 0 draws what a single process draws.
    """

    split: Stream
    order: Stream
    init: Stream
    noise: Stream
    env: Stream
    search: Stream

    def __init__(self, seed: int, rank: int = 0) -> None:
        self.seed = seed
        for role in ROLES:
            key = [seed, crc32(role.encode())]
            if rank and role in PER_RANK:
                key.append(rank)
            setattr(self, role, Stream(*key))

    def state_dict(self) -> dict[str, Any]:
        return {role: getattr(self, role).state_dict() for role in ROLES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for role in ROLES:
            getattr(self, role).load_state_dict(state[role])

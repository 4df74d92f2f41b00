"""Generalised advantages, against their definition and against stable-baselines3."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.optim.advantages import generalised_advantages

GAMMA = 0.9


def rollout(length: int, seed: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    numbers = {name: torch.from_numpy(rng.normal(size=(length, 3))).float() for name in ("rewards", "values")}
    ended = torch.from_numpy(rng.random((length, 3)) < 0.2)
    return numbers | {"last_values": torch.from_numpy(rng.normal(size=3)).float(), "ended": ended}


@given(length=st.integers(1, 12), decay=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_it_is_the_discounted_sum_of_temporal_differences(length: int, decay: float, seed: int) -> None:
    given_ = rollout(length, seed)
    found = generalised_advantages(**given_, gamma=GAMMA, decay=decay)
    values = torch.cat([given_["values"], given_["last_values"][None]])
    for copy in range(3):
        for t in range(length):
            expected, factor = 0.0, 1.0
            for k in range(t, length):
                over = bool(given_["ended"][k, copy])
                beyond = 0.0 if over else GAMMA * float(values[k + 1, copy])
                expected += factor * (float(given_["rewards"][k, copy]) + beyond - float(values[k, copy]))
                factor *= GAMMA * decay
                if over:
                    break
            assert float(found[t, copy]) == pytest.approx(expected, abs=1e-4)


def test_without_decay_they_are_returns_minus_values() -> None:
    given_ = rollout(6, 0) | {"ended": torch.zeros(6, 3, dtype=torch.bool)}
    found = generalised_advantages(**given_, gamma=GAMMA, decay=1.0)
    ahead = given_["last_values"]
    for t in range(5, -1, -1):
        ahead = given_["rewards"][t] + GAMMA * ahead
        torch.testing.assert_close(found[t] + given_["values"][t], ahead)


def test_it_is_stable_baselines3s() -> None:
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    from gymnasium.spaces import Box, Discrete

    given_ = rollout(20, 4)
    buffer = buffers.RolloutBuffer(20, Box(-1, 1, (1,)), Discrete(2), "cpu", 0.95, GAMMA, n_envs=3)
    buffer.rewards, buffer.values = given_["rewards"].numpy(), given_["values"].numpy()
    buffer.episode_starts[1:] = given_["ended"][:-1].numpy()
    buffer.compute_returns_and_advantage(given_["last_values"], given_["ended"][-1].numpy())
    found = generalised_advantages(**given_, gamma=GAMMA, decay=0.95)
    torch.testing.assert_close(found, torch.from_numpy(buffer.advantages))
    torch.testing.assert_close(found + given_["values"], torch.from_numpy(buffer.returns))

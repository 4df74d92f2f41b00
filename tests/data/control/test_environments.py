"""Environments: copies that are stepped together, and found again after an interruption."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.data.control.environments import Environments
from replicata.data.control.fetch4 import Fetch4
from replicata.errors import UserError
from replicata.streams import Streams


class Count(gymnasium.Env[Any, Any]):
    """Counts its steps; ends by itself after ``length`` of them, or is cut off after ``limit``."""

    observation_space, action_space = Box(0, 99, (1,)), Discrete(2)

    def __init__(self, length: int = 3, limit: int = 99) -> None:
        self.length, self.limit = length, limit

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.start = 0, float(self.np_random.integers(50))
        return np.array([self.start]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ended, cut = self.steps >= self.length, self.steps >= self.limit
        return np.array([self.start + self.steps]), float(action), ended, cut, {}


def copies(make: Any = Count, number: int = 2, seed: int = 0, horizon: int = 500) -> Environments:
    return Environments(make, number, Streams(seed).env, horizon)


def test_an_episode_that_ends_is_followed_by_the_next() -> None:
    envs = copies()
    first = envs.observations.copy()
    steps = [envs.step(np.array([1, 0])) for _ in range(3)]
    assert [step.ended.tolist() for step in steps] == [[False, False], [False, False], [True, True]]
    assert steps[2].finished == [(3.0, 3), (0.0, 3)]
    assert not steps[2].truncated
    assert not np.array_equal(steps[2].observations, first + 3)  # a fresh start, by another seed
    assert envs.episodes == [1, 1]


@pytest.mark.parametrize(("length", "limit", "cut"), [(9, 3, True), (3, 9, False), (3, 3, False)])
def test_only_what_a_limit_cuts_off_has_a_last_observation(length: int, limit: int, cut: bool) -> None:
    envs = copies(lambda: Count(length, limit), number=1)
    start = float(envs.observations[0, 0])
    step = [envs.step(np.array([1])) for _ in range(3)][-1]
    assert step.ended.all()
    assert {copy: float(seen[0]) for copy, seen in step.truncated.items()} == ({0: start + 3} if cut else {})


@given(before=st.integers(0, 60), after=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_restored_one_goes_on_as_if_nothing_had_happened(before: int, after: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = copies(Fetch4, 3, seed)
    for _ in range(before):
        whole.step(rng.integers(4, size=3))
    again = copies(Fetch4, 3, seed)
    again.load_state_dict(whole.state_dict())
    np.testing.assert_array_equal(again.observations, whole.observations)
    for _ in range(after):
        actions = rng.integers(4, size=3)
        expected, found = whole.step(actions), again.step(actions)
        np.testing.assert_array_equal(found.observations, expected.observations)
        np.testing.assert_array_equal(found.rewards, expected.rewards)
        assert found.finished == expected.finished


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_physics_are_restored_bit_for_bit(name: str) -> None:
    def make() -> Any:
        return gymnasium.make(name, disable_env_checker=True)

    def actions(step: int) -> Any:
        rng = np.random.default_rng(step)
        return rng.integers(2, size=2) if name.startswith("Cart") else rng.normal(size=(2, 1)).astype(np.float32)

    whole = copies(make)
    for step in range(30):
        whole.step(actions(step))
    again = copies(make)
    again.load_state_dict(whole.state_dict())
    for step in range(30, 50):
        np.testing.assert_array_equal(again.step(actions(step)).observations, whole.step(actions(step)).observations)
    assert all(isinstance(taken, torch.Tensor) for taken in whole.state_dict()["actions"])


def test_episodes_follow_the_seed_and_the_copy() -> None:
    same, other = copies(Fetch4, 4), copies(Fetch4, 4, seed=1)
    np.testing.assert_array_equal(same.observations, copies(Fetch4, 4).observations)
    assert not np.array_equal(same.observations, other.observations)
    assert len(np.unique(same.observations, axis=0)) > 1


def test_an_episode_beyond_the_declared_horizon_is_an_error() -> None:
    envs = copies(horizon=2)
    for _ in range(2):
        envs.step(np.array([0, 0]))
    with pytest.raises(UserError, match=r"data\.horizon is 2"):
        envs.step(np.array([0, 0]))

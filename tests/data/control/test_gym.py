"""GymEnvironments: facts, batches and state."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import pytest
import torch

from replicata.data.control.fetch4 import Fetch4
from replicata.data.control.gym import GymEnvironments
from replicata.errors import UserError
from replicata.streams import Streams

FETCH = {"obs_shape": [10], "num_words": 11, "num_actions": 4, "continuous": False, "horizon": 40}
CARTPOLE = {"obs_shape": [4], "num_words": None, "num_actions": 2, "continuous": False, "horizon": 500}
PENDULUM = {"obs_shape": [3], "num_words": None, "num_actions": 1, "continuous": True, "horizon": 200}


def data(make: Any = Fetch4, **settings: Any) -> GymEnvironments:
    base = FETCH | {"num_envs": 2, "n_steps": 3, "rollouts_per_epoch": 2}
    module = GymEnvironments(make, **(base | settings))
    module.streams = Streams(0)
    return module


@pytest.mark.parametrize(("make", "facts"), [
    (Fetch4, FETCH),
    (partial(gymnasium.make, "CartPole-v1"), CARTPOLE),
    (partial(gymnasium.make, "Pendulum-v1"), PENDULUM),
])  # fmt: skip
def test_facts_are_those_of_the_environment(make: Any, facts: dict[str, Any]) -> None:
    module = data(make, **facts)
    module.setup()
    assert (module.low is not None) == facts["continuous"]
    assert len(module.fingerprint) == 64


@pytest.mark.parametrize(
    "wrong", [{"obs_shape": [9]}, {"num_words": None}, {"num_actions": 3}, {"continuous": True}, {"horizon": 41}]
)
def test_a_wrong_fact_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(wrong))} is declared as"):
        data(**wrong).setup()


def test_what_gymnasium_does_not_know_is_one_line() -> None:
    with pytest.raises(UserError, match=r"data\.env: .*NoSuch"):
        data(partial(gymnasium.make, "NoSuch-v1")).setup()
    with pytest.raises(UserError, match="no limit of steps"):
        data(lambda: gymnasium.make("CartPole-v1").unwrapped, **CARTPOLE).setup()
    with pytest.raises(UserError, match="vector of numbers or of words"):
        data(partial(gymnasium.make, "FrozenLake-v1")).setup()


def test_a_batch_numbers_the_steps_of_a_rollout() -> None:
    module = data()
    module.setup()
    batches = [batch["index"].tolist() for batch in module.train_dataloader()]
    assert batches == [list(range(6)), list(range(6, 12))]


def test_noise_words_are_features_and_change_the_fingerprint() -> None:
    plain, noisy = data(), data(noise_words=2, obs_shape=[12])
    for module in (plain, noisy):
        module.setup()
    assert noisy.environments is not None
    assert noisy.environments.observations.shape == (2, 12)
    assert plain.fingerprint != noisy.fingerprint


def test_its_state_is_plain_and_that_of_the_copies() -> None:
    module, again = data(), data()
    assert module.state_dict() == {}
    for each in (module, again):
        each.setup()
    assert module.environments is not None
    assert again.environments is not None
    for _ in range(7):
        module.environments.step(torch.tensor([2, 1]).numpy())
    again.load_state_dict(module.state_dict())
    assert (again.environments.observations == module.environments.observations).all()


@pytest.mark.parametrize("wrong", [{"num_envs": 0}, {"n_steps": 0}, {"rollouts_per_epoch": 0}, {"noise_words": -1}])
def test_a_wrong_setting_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"data\.{next(iter(wrong))}"):
        data(**wrong)

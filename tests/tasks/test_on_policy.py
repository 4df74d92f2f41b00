"""OnPolicy: rollouts, the loss, and going on after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from replicata.data.control.fetch4 import Fetch4
from replicata.data.control.gym import GymEnvironments
from replicata.models.actor_critic import ActorCritic
from replicata.streams import Streams
from replicata.tasks.on_policy import OnPolicy, RandomPolicy

FETCH = {"obs_shape": [10], "num_words": 11, "num_actions": 4, "continuous": False, "horizon": 40}
PENDULUM = {"obs_shape": [3], "num_words": None, "num_actions": 1, "continuous": True, "horizon": 200}


class Endless(gymnasium.Env[Any, Any]):
    """Pays 1 a step and is cut off after three."""

    observation_space, action_space, max_steps = Box(0, 9, (1,)), Discrete(2), 3

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.full(1, self.steps), 1.0, False, self.steps == 3, {}


class Guess(OnPolicy):
    """The value of an observation is its number, plus 5."""

    def outputs(self, obs: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(obs), 2), obs + 5], 1)

    def improve(self, rollout: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        self.rollout = rollout
        return {"loss": torch.zeros(())}


def data(make: Any = Fetch4, **settings: Any) -> GymEnvironments:
    return GymEnvironments(make, **(FETCH | {"num_envs": 3, "n_steps": 16, "rollouts_per_epoch": 2} | settings))


def network(facts: dict[str, Any] = FETCH, **settings: Any) -> OnPolicy:
    with Streams(0).init.as_global():
        shape = {name: value for name, value in facts.items() if name != "horizon"}
        model = ActorCritic(**shape, widths=[8])
    adam = partial(torch.optim.Adam, lr=1e-2)
    return OnPolicy(model=model, optimizer=adam, **({"epochs": 2, "batch_size": 16, "window": 10} | settings))


def pendulum() -> Any:
    return gymnasium.make("Pendulum-v1", disable_env_checker=True)


# Rollouts -----------------------------------------------------------------------------------


def test_an_episode_that_was_cut_off_is_worth_what_lies_beyond(fit: Callable[..., Any]) -> None:
    facts = {"obs_shape": [1], "num_words": None, "num_actions": 2, "continuous": False, "horizon": 3}
    method = Guess(gamma=0.5, gae_lambda=0.0, epochs=1, batch_size=None)
    fit(method, data(Endless, num_envs=1, n_steps=4, rollouts_per_epoch=1, **facts))
    # Values are 5, 6, 7 and then 8 of the last observation, which is never acted on; the fourth step is a new episode.
    torch.testing.assert_close(
        method.rollout["return"], torch.tensor([1 + 0.5 * 6, 1 + 0.5 * 7, 1 + 0.5 * 8, 1 + 0.5 * 6])
    )
    torch.testing.assert_close(method.rollout["advantage"], method.rollout["return"] - torch.tensor([5.0, 6, 7, 5]))


def test_a_rollout_is_what_the_policy_saw_and_did(fit: Callable[..., Any]) -> None:
    method = network()
    seen: list[dict[str, Tensor]] = []
    improve = method.improve

    def spy(rollout: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        if not seen:
            outputs = method.outputs(rollout["obs"])
            torch.testing.assert_close(outputs, rollout["outputs"])
            found, _ = method.actions.log_prob_and_entropy(outputs[:, :-1], rollout["action"])
            torch.testing.assert_close(found, rollout["log_prob"])  # PPO's ratio is 1 at first
            assert len(rows) == 16
        seen.append(rollout)
        return improve(rollout, rows)

    method.improve = spy  # type: ignore[method-assign]
    trainer = fit(method, data(), max_epochs=3)
    assert len(seen) == 3 * 2 * 2 * 3  # epochs of the run, rollouts, passes, minibatches of 48 rows
    assert method.steps == 3 * 2 * 48
    assert [row["steps"] for row in method.tables["returns"]][-1] == 288
    assert trainer.callback_metrics["test/return"] == trainer.callback_metrics["val/return"]
    assert float(trainer.callback_metrics["test/episodes"]) == method.episodes >= len(method.last_returns)


def test_continuous_actions_are_clipped_for_the_environment_alone(fit: Callable[..., Any]) -> None:
    method = network(PENDULUM, epochs=1)
    assert method.model.log_std is not None
    with torch.no_grad():
        method.model.log_std.fill_(3.0)
    module = data(pendulum, **PENDULUM)
    rollouts: list[dict[str, Tensor]] = []
    collect = method.collect
    method.collect = lambda: rollouts.append(collect()) or rollouts[-1]  # type: ignore[method-assign, func-returns-value]
    fit(method, module)
    assert module.environments is not None
    assert float(rollouts[0]["action"].abs().max()) > 2
    assert max(abs(float(a[0])) for taken in module.environments.actions for a in taken) <= 2
    assert not torch.equal(method.model.log_std, torch.full((1,), 3.0))  # it learns


def test_rewards_are_divided_by_the_deviation_of_returns(fit: Callable[..., Any]) -> None:
    method = network(PENDULUM, normalise_reward=True, normalise_obs=True, gamma=0.9)
    fit(method, data(pendulum, **PENDULUM), max_epochs=2)
    assert method.obs_norm is not None
    assert method.return_norm is not None
    assert float(method.return_norm.count) == pytest.approx(2 * 2 * 48)
    assert float(method.obs_norm.count) == pytest.approx(2 * 2 * 48)


def test_a_policy_at_random_tries_everything_and_learns_nothing(fit: Callable[..., Any]) -> None:
    method = RandomPolicy(num_actions=4)
    trainer = fit(method, data(n_steps=60), max_epochs=2)
    assert not list(method.parameters())
    assert 0 <= float(trainer.callback_metrics["test/return"]) < 0.6


# The loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_a_step_is_stable_baselines3s(algorithm: str) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    from torch.nn import Linear

    settings = {"n_steps": 16, "gamma": 0.98, "gae_lambda": 0.8, "ent_coef": 0.01, "seed": 0, "device": "cpu"}
    make = {"ppo": partial(sb3.PPO, batch_size=16, n_epochs=1), "a2c": partial(sb3.A2C, use_rms_prop=False)}[algorithm]
    theirs = make("MlpPolicy", "CartPole-v1", learning_rate=1e-2, **settings)
    _, callback = theirs._setup_learn(16)
    theirs.collect_rollouts(theirs.env, callback, theirs.rollout_buffer, 16)

    ours = ActorCritic([4], 2)
    policy = theirs.policy
    pairs = [(ours.actor, policy.mlp_extractor.policy_net, policy.action_net),
             (ours.critic, policy.mlp_extractor.value_net, policy.value_net)]  # fmt: skip

    def layers() -> list[tuple[Any, Any]]:
        found = []
        for own, hidden, last in pairs:
            mine = [layer for layer in own.layers if isinstance(layer, Linear)]
            found += list(zip(mine, [*(layer for layer in hidden if isinstance(layer, Linear)), last], strict=True))
        return found

    for mine, other in layers():
        mine.load_state_dict(other.state_dict())
    buffer = theirs.rollout_buffer
    columns = {
        "obs": buffer.observations, "action": buffer.actions, "log_prob": buffer.log_probs,
        "advantage": buffer.advantages, "return": buffer.returns,
    }  # fmt: skip
    rollout = {name: torch.from_numpy(np.array(value[:, 0])) for name, value in columns.items()}
    rollout["action"] = rollout["action"].flatten().long()
    method = OnPolicy(
        model=ours, algorithm=algorithm, entropy_coef=0.01, normalise_advantage=algorithm == "ppo",
        optimizer=partial(torch.optim.Adam, lr=1e-2, eps=policy.optimizer.defaults["eps"]),
    )  # fmt: skip
    optimizer = method.configure_optimizers()
    method.optimizers = lambda **_: optimizer  # type: ignore[method-assign, assignment]
    losses = method.improve(rollout, torch.arange(16))
    theirs.train()
    logged = theirs.logger.name_to_value
    name = "train/policy_gradient_loss" if algorithm == "ppo" else "train/policy_loss"
    assert float(losses["policy"].detach()) == pytest.approx(logged[name], abs=1e-5)
    assert float(losses["value"].detach()) == pytest.approx(0.5 * logged["train/value_loss"], rel=1e-4)
    for mine, other in layers():
        torch.testing.assert_close(mine.weight, other.weight, atol=1e-5, rtol=1e-4)


def test_rates_and_clip_fall_on_a_line() -> None:
    method = network(final_lr=0.002, anneal_clip=True)
    optimizer = method.configure_optimizers()
    rates = []
    for done in (0, 1, 3):
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=done))
        method._trainer = SimpleNamespace(fit_loop=loop, max_epochs=2, num_training_batches=2)  # type: ignore[assignment]
        method.anneal(optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.008, 0.004])
    assert method.progress() == 0.75


# Resume -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "facts", "settings"),
    [(Fetch4, FETCH, {}), (pendulum, PENDULUM, {"normalise_obs": True, "normalise_reward": True, "final_lr": 0.0})],
    ids=["words", "numbers"],
)
def test_stopped_between_rollouts_and_resumed_equals_uninterrupted(
    make: Any,
    facts: dict[str, Any],
    settings: dict[str, Any],
    fit: Callable[..., Any],
    saving: Callable[..., Any],
    tmp_path: Path,
) -> None:
    def part(method: OnPolicy, **trainer: Any) -> Any:
        return fit(method, data(make, rollouts_per_epoch=3, **facts), max_epochs=2, **trainer)

    whole, resumed, cut = network(facts, **settings), network(facts, **settings), tmp_path / "cut.ckpt"
    expected = part(whole, callbacks=[saving(cut, after=4)])
    trainer = part(resumed, resume=cut)
    assert resumed.tables == whole.tables
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name
    assert {k: float(v) for k, v in trainer.callback_metrics.items()} == {
        k: float(v) for k, v in expected.callback_metrics.items()
    }


# Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithm": "dqn"},
        {"gamma": 1.1},
        {"gae_lambda": -1.0},
        {"epochs": 0},
        {"batch_size": -1},
        {"clip_range": 0.0},
        {"window": 0},
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"method\.{next(iter(wrong))}"):
        network(**wrong)


def test_data_without_environments_do_not_fit(replicata: Callable[..., Any]) -> None:
    called = replicata("run", "method=tasks/on_policy", "data=vision/digits", "model=mlp")
    assert called.status == 2
    assert "OnPolicy needs batches with environments" in called.err

"""GymEnvironments: environments of gymnasium's interface as a data module."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from lightning.pytorch import LightningDataModule

from replicata.data.control.environments import Environments
from replicata.data.control.noise_words import NoiseWords
from replicata.data.loaders import Batch, FreshBatches
from replicata.errors import UserError
from replicata.streams import Stream, Streams

WALK = 100  # steps of the random walk that stands for an environment's content


class GymEnvironments(LightningDataModule):
    """Copies of an environment, from which a method takes rollouts.

    A batch of the loader only numbers the steps of a rollout; the method itself acts in :attr:`environments`, because
    what comes next depends on what it does. An epoch is a number of rollouts, and a checkpoint falls between two.

    Args:
        env: Makes one copy; its observations are a vector of numbers (``Box``) or of words (``MultiDiscrete``), its
            actions ``Discrete`` or a ``Box``.
        num_envs: Copies that are stepped together.
        n_steps: Steps of each in one rollout.
        rollouts_per_epoch: Rollouts that count as one epoch.
        obs_shape: Shape of an observation; a declared fact, like those that follow.
        num_words: Words that the features of an observation are made of; ``None``: they are numbers.
        num_actions: Actions to choose from, or coordinates of an action.
        continuous: Whether an action is a vector of numbers.
        horizon: Most steps of an episode.
        noise_words: Features of random words that are added to each observation.

    Attributes:
        streams: The run's streams, set by the runner.
        environments: After ``setup``, the copies.
        low, high: After ``setup``, bounds of a continuous action, else ``None``.
        fingerprint: After ``setup``, SHA-256 of what a random walk of one hundred steps sees.
    """

    streams: Streams

    def __init__(
        self,
        env: Callable[[], gymnasium.Env[Any, Any]],
        *,
        num_envs: int,
        n_steps: int,
        rollouts_per_epoch: int,
        obs_shape: Sequence[int],
        num_words: int | None,
        num_actions: int,
        continuous: bool,
        horizon: int,
        noise_words: int = 0,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("n_steps", n_steps), ("rollouts_per_epoch", rollouts_per_epoch)):
            if value < 1:
                raise ValueError(f"data.{name} must be at least 1, got {value}")
        if noise_words < 0:
            raise ValueError(f"data.noise_words must be >= 0, got {noise_words}")
        super().__init__()
        self.make, self.noise_words = env, noise_words
        self.num_envs, self.n_steps, self.rollouts_per_epoch = num_envs, n_steps, rollouts_per_epoch
        self.obs_shape, self.num_words, self.num_actions = list(obs_shape), num_words, num_actions
        self.continuous, self.horizon = continuous, horizon
        self.low: np.ndarray[Any, Any] | None = None
        self.high: np.ndarray[Any, Any] | None = None
        self.environments: Environments | None = None
        self.fingerprint = ""

    @property
    def columns(self) -> frozenset[str]:
        """What a method finds here."""
        return frozenset({"environments", "index"})

    def copy(self) -> gymnasium.Env[Any, Any]:
        """One environment.

        Raises:
            UserError: if gymnasium does not know it, or it needs a package that is not installed.
        """
        try:
            env = self.make()
        except gymnasium.error.Error as error:
            raise UserError(f"data.env: {str(error).splitlines()[0]}") from error
        return NoiseWords(env, self.noise_words) if self.noise_words else env

    def setup(self, stage: str | None = None) -> None:
        if self.environments is not None:
            return
        env = self.copy()
        for name, measured in facts(env).items():
            declared = getattr(self, name)
            if declared != measured:
                raise UserError(f"data.{name} is declared as {declared}, but the data has {measured}; set it to that")
        if isinstance(env.action_space, Box):
            self.low, self.high = env.action_space.low, env.action_space.high
        self.fingerprint = walk(env)
        self.environments = Environments(self.copy, self.num_envs, self.streams.env, self.horizon)

    def train_dataloader(self) -> FreshBatches:
        return FreshBatches(self._numbers, self.rollouts_per_epoch, self.streams.env)

    def _numbers(self, stream: Stream, rollout: int) -> Batch:
        size = self.num_envs * self.n_steps
        return {"index": rollout * size + torch.arange(size)}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.environments is None else self.environments.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if state_dict:
            assert self.environments is not None
            self.environments.load_state_dict(state_dict)


def facts(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """What an environment's spaces and limits say, by the names of the data module's arguments.

    Raises:
        UserError: for spaces of other kinds, and for an environment without a limit of steps.
    """
    seen, action = env.observation_space, env.action_space
    if not isinstance(seen, Box | MultiDiscrete) or len(seen.shape) != 1:
        raise UserError(f"data.env: observations must be a vector of numbers or of words, got {seen}; wrap it")
    if not isinstance(action, Discrete | Box):
        raise UserError(f"data.env: actions must be Discrete or a Box, got {action}")
    limit = env.spec.max_episode_steps if env.spec is not None else None
    horizon = limit or getattr(env.unwrapped, "max_steps", None)
    if horizon is None:
        raise UserError("data.env: its episodes have no limit of steps; give it max_episode_steps")
    return {
        "obs_shape": list(seen.shape),
        "num_words": int(seen.nvec.max()) if isinstance(seen, MultiDiscrete) else None,
        "num_actions": int(action.n) if isinstance(action, Discrete) else int(np.prod(action.shape)),
        "continuous": isinstance(action, Box),
        "horizon": int(horizon),
    }


def walk(env: gymnasium.Env[Any, Any]) -> str:
    """SHA-256 over observations and rewards of a random walk."""
    digest = hashlib.sha256()
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    digest.update(np.asarray(observation, np.float32).tobytes())
    for step in range(WALK):
        observation, reward, terminal, cut, _ = env.step(env.action_space.sample())
        digest.update(np.asarray([*observation, reward], np.float32).tobytes())
        if terminal or cut:
            observation, _ = env.reset(seed=step + 1)
            digest.update(np.asarray(observation, np.float32).tobytes())
    return digest.hexdigest()

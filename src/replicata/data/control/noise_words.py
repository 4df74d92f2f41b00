"""NoiseWords: features that mean nothing."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import MultiDiscrete


class NoiseWords(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Adds features of random words to observations of words, drawn anew in every step.

    Args:
        env: Its observations are ``MultiDiscrete``; a noise feature has as many words as the feature with most.
        features: How many are added, at the end.

    Raises:
        ValueError: if the observations are no words.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], features: int) -> None:
        if not isinstance(env.observation_space, MultiDiscrete):
            raise ValueError(f"data.noise_words: the observations are no words, but {env.observation_space}")
        super().__init__(env)
        self.features, self.words = features, int(env.observation_space.nvec.max())
        self.observation_space = MultiDiscrete([*env.observation_space.nvec.tolist(), *[self.words] * features])
        self.noise = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:  # a stream of its own: the environment draws from the seed itself
            self.noise = np.random.default_rng([seed, self.features])
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> Any:
        return np.concatenate([observation, self.noise.integers(self.words, size=self.features)])

"""Copies of an environment that are stepped together, and that a resumed run finds where they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from replicata.errors import UserError
from replicata.streams import Stream

Observations = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Step:
    """What a step of all :math:`N` copies led to.

    Attributes:
        observations: :math:`(N, *)`, to act on next: of the new episode where one ended.
        rewards: :math:`(N)`.
        ended: :math:`(N)`, whether the episode ended, for whatever reason.
        truncated: Last observation of each episode that was cut off by a limit and not by its own end, by copy.
        finished: Return and length of each episode that ended, in the order of the copies.
    """

    observations: Observations
    rewards: np.ndarray[Any, np.dtype[np.float32]]
    ended: np.ndarray[Any, np.dtype[np.bool_]]
    truncated: dict[int, Observations]
    finished: list[tuple[float, int]]


class Environments:
    """Copies of one environment; an episode that ends is followed by the copy's next at once.

    Episode :math:`e` of copy :math:`i` begins with ``reset(seed=...)`` by a seed derived from (stream, :math:`i`,
    :math:`e`), so it is a function of that and of its actions. Numbers of episodes and the actions taken in those that
    are under way are therefore the whole state of the copies, whatever they simulate: a resumed one is reset by its
    seed and walked through its actions. (gymnasium's vector environments restart a finished episode from a generator
    whose state cannot be read from outside.)

    Args:
        make: Makes one copy. Its steps must depend on nothing but what ``reset`` was given and the actions.
        number: Copies :math:`N`.
        stream: The run's ``env`` stream.
        horizon: Most steps of an episode.

    Attributes:
        observations: :math:`(N, *)`, to act on next.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]], number: int, stream: Stream, horizon: int) -> None:
        self.copies = [make() for _ in range(number)]
        self.key, self.horizon = stream.key, horizon
        self.episodes = [0] * number
        self.actions: list[list[Any]] = [[] for _ in range(number)]
        self.returns = [0.0] * number
        self.observations: Observations = np.stack([self._reset(copy) for copy in range(number)])

    def __len__(self) -> int:
        return len(self.copies)

    def step(self, actions: np.ndarray[Any, Any]) -> Step:
        """Act once in every copy.

        Args:
            actions: :math:`(N)` numbers of actions, or :math:`(N, A)`, clipped to the bounds of the action space.
        """
        number = len(self)
        rewards, ended = np.zeros(number, np.float32), np.zeros(number, np.bool_)
        observations = np.empty_like(self.observations)
        truncated: dict[int, Observations] = {}
        finished: list[tuple[float, int]] = []
        for copy, action in enumerate(actions.tolist() if actions.ndim == 1 else actions):
            observation, reward, terminal, cut = self._act(copy, action)
            rewards[copy], ended[copy] = reward, terminal or cut
            if ended[copy]:
                if not terminal:
                    truncated[copy] = observation
                finished.append((self.returns[copy], len(self.actions[copy])))
                self.episodes[copy] += 1
                observation = self._reset(copy)
            observations[copy] = observation
        self.observations = observations
        return Step(observations, rewards, ended, truncated, finished)

    def _act(self, copy: int, action: Any) -> tuple[Observations, float, bool, bool]:
        observation, reward, terminal, cut, _ = self.copies[copy].step(action)
        self.actions[copy].append(action)
        self.returns[copy] += float(reward)
        if len(self.actions[copy]) > self.horizon:
            raise UserError(f"data.horizon is {self.horizon}, but an episode is longer; set it to its limit")
        return np.asarray(observation, np.float32), float(reward), bool(terminal), bool(cut)

    def _reset(self, copy: int) -> Observations:
        seed = np.random.SeedSequence([*self.key, copy, self.episodes[copy]]).generate_state(1)[0]
        observation, _ = self.copies[copy].reset(seed=int(seed))
        self.actions[copy], self.returns[copy] = [], 0.0
        return np.asarray(observation, np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {
            "episodes": list(self.episodes),
            "actions": [torch.from_numpy(np.array(taken)) for taken in self.actions],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.episodes = list(state["episodes"])
        for copy, taken in enumerate(state["actions"]):
            observation = self._reset(copy)
            for action in taken.tolist() if taken.ndim == 1 else taken.numpy():
                observation, *_ = self._act(copy, action)
            self.observations[copy] = observation

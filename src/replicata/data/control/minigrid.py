"""MiniGrid's tasks as vectors: of words, or flat as MiniGrid itself does it."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import MultiDiscrete

from replicata.errors import UserError

OBJECTS, COLOURS, STATES = 11, 6, 4  # of a cell of a partial view; a word is a triple of them
DIRECTIONS = 4


class Words(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A view of cells, the direction and the mission as words: one feature each.

    A cell's word is its triple (object, colour, state), so two cells are equal or they are not; the mission is one
    word, whatever it says. Words are numbered, missions in alphabetical order.

    Args:
        env: A MiniGrid environment with its partial view, a dict of ``image``, ``direction`` and ``mission``.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        seen: Any = env.observation_space
        mission = seen["mission"]
        choices = mission.ordered_placeholders or []
        self.missions = sorted({mission.mission_func(*chosen) for chosen in product(*choices)})
        cells = int(np.prod(seen["image"].shape[:2]))
        words = [OBJECTS * COLOURS * STATES] * cells
        self.observation_space = MultiDiscrete([*words, DIRECTIONS, len(self.missions)])

    def observation(self, observation: Any) -> Any:
        kind, colour, state = np.moveaxis(observation["image"].astype(np.int64), -1, 0)
        cells = (kind * COLOURS + colour) * STATES + state
        mission = self.missions.index(observation["mission"])
        return np.concatenate([cells.ravel(), [int(observation["direction"]), mission]])


def minigrid(id: str, encoding: Literal["words", "flat"] = "words") -> gymnasium.Env[Any, Any]:
    """One of MiniGrid's environments.

    Args:
        id: Its name, such as ``MiniGrid-Fetch-5x5-N2-v0``.
        encoding: ``words``; or ``flat``: the numbers of the view and the letters of the mission in a row.

    Raises:
        UserError: if MiniGrid is not installed.
    """
    try:
        from minigrid.wrappers import FlatObsWrapper
    except ImportError as error:
        raise UserError("data.env: MiniGrid is not installed; pip install 'replicata[control]'") from error
    env = gymnasium.make(id, disable_env_checker=True)
    return Words(env) if encoding == "words" else FlatObsWrapper(env)

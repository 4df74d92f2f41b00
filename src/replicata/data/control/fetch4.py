"""Fetch4: a small world of words, in which a coloured thing is to be picked up."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete

COLOURS = ("red", "green", "blue")
TYPES = ("ball", "box")
WORDS = ("wall", "empty", *(f"{colour},{kind}" for colour in COLOURS for kind in TYPES), *COLOURS)
WALL, EMPTY, THINGS, MISSIONS = 0, 1, 2, 8  # first numbers of each sort of word
SIZE, MARGIN = 4, 2
SIDE = SIZE + 2 * MARGIN  # of the world with walls around it, as far as one can see
LEFT, RIGHT, FORWARD, PICK_UP = range(4)
AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))  # rows and columns, by heading; right is the next one


class Fetch4(gymnasium.Env[Any, Any]):
    """After the idea of MiniGrid-Fetch: 4x4 cells, two things of different colours, a mission that names one colour.

    The agent turns left or right, goes forward (walls and things block), or picks up the thing in front of it, which
    ends the episode: with the reward :math:`1 - 0.9\\, t/T` after :math:`t` of :math:`T = 40` steps if the colour is
    right, else with 0. An observation is ten words: three rows of three cells as the agent sees them, its own row
    first and each from left to right, and the mission. Words are numbers into :data:`WORDS`.
    """

    max_steps = 40

    def __init__(self) -> None:
        self.observation_space = MultiDiscrete([len(WORDS)] * 10)
        self.action_space = Discrete(4)
        self.seen = views()
        inside = np.arange(SIZE) + MARGIN
        self.cells = (inside[:, None] * SIDE + inside).ravel()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        cells = self.np_random.permutation(self.cells)[:3]
        colours = self.np_random.permutation(len(COLOURS))[:2]
        kinds = self.np_random.integers(len(TYPES), size=2)
        self.heading = int(self.np_random.integers(4))
        self.mission = int(colours[self.np_random.integers(2)])
        self.world = np.full(SIDE * SIDE, WALL)
        self.world[self.cells] = EMPTY
        self.world[cells[1:]] = THINGS + colours * len(TYPES) + kinds
        self.cell, self.steps = int(cells[0]), 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward, terminal = 0.0, False
        down, right = AHEAD[self.heading]
        ahead = self.cell + down * SIDE + right
        if action == LEFT:
            self.heading = (self.heading - 1) % 4
        elif action == RIGHT:
            self.heading = (self.heading + 1) % 4
        elif action == FORWARD:
            if self.world[ahead] == EMPTY:
                self.cell = ahead
        elif self.world[ahead] >= THINGS:
            terminal = True
            if (int(self.world[ahead]) - THINGS) // len(TYPES) == self.mission:
                reward = 1 - 0.9 * self.steps / self.max_steps
        return self.observe(), reward, terminal, not terminal and self.steps >= self.max_steps, {}

    def observe(self) -> Any:
        """Ten numbers of words."""
        words = np.empty(10, np.int64)
        words[:9] = self.world[self.seen[self.cell * 4 + self.heading]]
        words[9] = MISSIONS + self.mission
        return words


@cache
def views() -> Any:
    """Numbers of the cells that are seen from each cell and heading, four headings a cell."""
    return np.stack([view(cell, heading) for cell in range(SIDE * SIDE) for heading in range(4)])


def view(cell: int, heading: int) -> Any:
    """Numbers of the nine cells that are seen from a cell; those out of the world count as its first, a wall."""
    down, right = AHEAD[heading]
    sideways, onward = np.meshgrid([-1, 0, 1], [0, 1, 2])
    rows = cell // SIDE + onward * down + sideways * right
    columns = cell % SIDE + onward * right - sideways * down
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    return np.where(inside, rows * SIDE + columns, 0).ravel()

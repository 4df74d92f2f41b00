"""MiniGrid's tasks in words, where MiniGrid is installed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from replicata.data.control.gym import facts
from replicata.data.control.minigrid import minigrid
from replicata.errors import UserError

FETCH = "MiniGrid-Fetch-5x5-N2-v0"


def test_without_it_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minigrid.wrappers", None)
    with pytest.raises(UserError, match="MiniGrid is not installed"):
        minigrid(FETCH)


def test_a_view_is_49_cells_the_direction_and_the_mission() -> None:
    pytest.importorskip("minigrid")
    env = minigrid(FETCH)
    assert facts(env) == {"obs_shape": [51], "num_words": 264, "num_actions": 7, "continuous": False, "horizon": 125}
    seen = set()
    for seed in range(40):
        words, _ = env.reset(seed=seed)
        raw = env.unwrapped.gen_obs()
        assert env.observation_space.contains(words)
        assert words[49] == raw["direction"]
        assert env.missions[words[50]] == raw["mission"]
        kind, colour, state = np.moveaxis(raw["image"].astype(int), -1, 0)
        cells = [(k, c, s) for k, c, s in zip(kind.flat, colour.flat, state.flat, strict=True)]
        pairs = set(zip(words[:49].tolist(), cells, strict=True))
        seen |= pairs
    assert len({word for word, _ in seen}) == len({cell for _, cell in seen}) == len(seen)


def test_missions_do_not_depend_on_what_was_seen() -> None:
    pytest.importorskip("minigrid")
    assert minigrid(FETCH).missions == minigrid(FETCH).missions
    assert len(set(minigrid(FETCH).missions)) == len(minigrid(FETCH).missions) > 1


def test_networks_get_it_flat() -> None:
    pytest.importorskip("minigrid")
    found = facts(partial(minigrid, FETCH, "flat")())
    assert (found["obs_shape"], found["num_words"]) == ([2835], None)

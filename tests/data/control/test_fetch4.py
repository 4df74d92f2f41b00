"""Fetch4 and its noise: geometry, reward, and what is random."""

from __future__ import annotations

from collections import Counter

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.data.control.fetch4 import (
    AHEAD,
    COLOURS,
    EMPTY,
    FORWARD,
    LEFT,
    MISSIONS,
    PICK_UP,
    RIGHT,
    SIDE,
    THINGS,
    WALL,
    WORDS,
    Fetch4,
)  # fmt: skip
from replicata.data.control.noise_words import NoiseWords

SEEDS = st.integers(0, 10_000)


def started(seed: int) -> Fetch4:
    env = Fetch4()
    env.reset(seed=seed)
    return env


def colour(word: int) -> int:
    return (word - THINGS) // 2


@given(seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_a_world_holds_two_things_of_two_colours_and_a_mission_for_one(seed: int) -> None:
    env = started(seed)
    things = [int(word) for word in env.world if word >= THINGS]
    assert len(things) == 2
    assert len({colour(word) for word in things}) == 2
    assert env.mission in {colour(word) for word in things}
    assert env.world[env.cell] == EMPTY
    assert WORDS[env.observe()[9]] == COLOURS[env.mission]
    assert int((env.world != WALL).sum()) == 16


@given(seed=SEEDS, moves=st.lists(st.sampled_from([LEFT, RIGHT, FORWARD]), max_size=15))
@settings(max_examples=50, deadline=None)
def test_one_sees_the_cells_ahead_from_left_to_right(seed: int, moves: list[int]) -> None:
    env = started(seed)
    for move in moves:
        env.step(move)
    down, right = AHEAD[env.heading]
    seen = env.observe()[:9].reshape(3, 3)
    assert seen[0, 1] == EMPTY  # where one stands
    for onward in range(3):
        for sideways in (-1, 0, 1):
            at = env.cell + (onward * down + sideways * right) * SIDE + onward * right - sideways * down
            assert seen[onward, sideways + 1] == env.world[at]


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_turns_undo_each_other_and_four_are_none(seed: int) -> None:
    env = started(seed)
    before = env.observe().tolist()
    env.step(LEFT)
    assert env.step(RIGHT)[0].tolist() == before
    for _ in range(4):
        last = env.step(RIGHT)[0].tolist()
    assert last == before


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_walls_and_things_block_and_only_the_right_thing_pays(seed: int) -> None:
    env, rng = started(seed), np.random.default_rng(seed)
    for t in range(1, 41):
        ahead, cell = int(env.observe()[4]), env.cell
        action = PICK_UP if ahead >= THINGS and rng.random() < 0.5 else int(rng.choice([LEFT, RIGHT, FORWARD]))
        _, reward, terminal, cut, _ = env.step(action)
        if action == PICK_UP:
            assert terminal
            assert not cut
            assert reward == pytest.approx(1 - 0.9 * t / 40 if colour(ahead) == env.mission else 0)
            return
        assert not reward
        assert not terminal
        assert cut == (t == 40)
        if action == FORWARD and ahead != EMPTY:
            assert env.cell == cell


def test_picking_up_nothing_does_nothing() -> None:
    env = next(env for env in map(started, range(50)) if env.observe()[4] < THINGS)
    before = env.observe().tolist()
    seen, reward, terminal, _, _ = env.step(PICK_UP)
    assert (seen.tolist(), reward, terminal) == (before, 0.0, False)


def test_worlds_are_drawn_evenly() -> None:
    env, drawn = Fetch4(), []
    for seed in range(1500):
        env.reset(seed=seed)
        drawn.append((env.mission, env.heading, env.cell))
    for values, number in zip(zip(*drawn, strict=True), (3, 4, 16), strict=True):
        counts = Counter(values)
        assert len(counts) == number
        assert max(abs(n * number / 1500 - 1) for n in counts.values()) < 0.4
    assert len(WORDS) == 11 == MISSIONS + len(COLOURS)


def test_noise_leaves_the_world_alone_and_follows_the_seed() -> None:
    plain, noisy, again = Fetch4(), NoiseWords(Fetch4(), 5), NoiseWords(Fetch4(), 5)
    seen = []
    for seed in range(30):
        first, second = plain.reset(seed=seed)[0], noisy.reset(seed=seed)[0]
        np.testing.assert_array_equal(second[:10], first)
        np.testing.assert_array_equal(again.reset(seed=seed)[0], second)
        step = noisy.step(LEFT)[0]
        np.testing.assert_array_equal(step[:10], plain.step(LEFT)[0])
        np.testing.assert_array_equal(again.step(LEFT)[0], step)
        seen += [second[10:], step[10:]]
    assert set(np.concatenate(seen).tolist()) == set(range(11))
    assert noisy.observation_space.shape == (15,)
    with pytest.raises(ValueError, match="no words"):
        NoiseWords(gymnasium.make("CartPole-v1"), 5)

"""From a study to its runs: which, in what order, with which overrides."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from replicata.errors import UserError
from replicata.study.parse import parse
from replicata.study.plan import RunSpec, expand, needed_arms

STUDY = parse(
    yaml.safe_load(
        """
seeds: 3
factors: {data: {cora: [data=graph/cora], citeseer: [data=graph/citeseer]}}
arms:
  new: {overrides: [method=new], panel: [half]}
  old: [method=old]
  deep: {overrides: [method=deep], seeds: 2}
  small: {overrides: [method=small], where: {data: cora}}
tracks:
  other: {overrides: [task=lm], seeds: [7], arms: {lm: [method=lm], reference: []}}
groups: {all: {arms: [old, deep], reduce: mean}}
derived: {gain: {function: gain, from: [old]}}
claims:
  - {id: a, statement: s, test: {kind: greater, metric: gain, arm: new, than: half, over: {data: each}}}
  - {id: b, statement: s, test: {kind: threshold, metric: m, arm: lm, above: 0}}
  - {id: c, statement: s, role: control, controls: [b], test: {kind: threshold, metric: m, arm: reference, above: 0}}
"""
    ),
    "toy/plan",
)


def test_runs_come_seed_by_seed_then_in_the_order_of_the_config() -> None:
    specs = expand(STUDY)
    assert [spec.label for spec in specs[:7]] == [
        "new data=cora seed 0",
        "new data=citeseer seed 0",
        "old data=cora seed 0",
        "old data=citeseer seed 0",
        "deep data=cora seed 0",
        "deep data=citeseer seed 0",
        "small data=cora seed 0",
    ]
    assert [spec.seed for spec in specs] == sorted(spec.seed for spec in specs)
    assert len(specs) == 2 * 3 * 2 + 2 * 2 + 3 + 2
    assert [spec.label for spec in specs[-2:]] == ["lm seed 7", "reference seed 7"]


def test_overrides_go_from_the_general_to_the_particular() -> None:
    spec = expand(STUDY, ["trainer.max_epochs=1"], arms=["old"])[1]
    assert spec == RunSpec(
        arm="old",
        levels=(("data", "citeseer"),),
        seed=0,
        overrides=(
            "experiment=toy/plan",
            "data=graph/citeseer",
            "method=old",
            "trainer.max_epochs=1",
            "seed=0",
        ),
    )
    assert expand(STUDY, arms=["lm"])[0].overrides == ("experiment=toy/plan", "task=lm", "method=lm", "seed=7")


@pytest.mark.parametrize(
    ("asked", "arms"),
    [(["half"], {"new"}), (["new/half"], {"new"}), (["all"], {"old", "deep"}), (["lm", "new"], {"lm", "new"})],
)
def test_arms_are_chosen_by_any_of_their_names(asked: list[str], arms: set[str]) -> None:
    assert {spec.arm for spec in expand(STUDY, arms=asked)} == arms


def test_a_claim_brings_what_its_columns_and_controls_need() -> None:
    assert {spec.arm for spec in expand(STUDY, claims=["a"])} == {"new", "old"}
    assert {spec.arm for spec in expand(STUDY, claims=["b"])} == {"lm", "reference"}
    assert needed_arms(STUDY, STUDY.claims) == {"new", "old", "lm", "reference"}


def test_an_arm_with_seeds_of_its_own_never_gets_more() -> None:
    assert {spec.seed for spec in expand(STUDY, seeds=10) if spec.arm == "old"} == set(range(10))
    assert {spec.seed for spec in expand(STUDY, seeds=10) if spec.arm == "deep"} == {0, 1}
    assert {spec.seed for spec in expand(STUDY, seeds=1) if spec.arm == "deep"} == {0}
    assert {spec.seed for spec in expand(STUDY, seeds=[4, 2])} == {2, 4}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="toy/plan has no arm 'lmm'; did you mean 'lm'"):
        expand(STUDY, arms=["lmm"])
    with pytest.raises(UserError, match="toy/plan has no claim 'd'"):
        expand(STUDY, claims=["d"])


@given(
    arms=st.none() | st.sets(st.sampled_from(["new", "half", "old", "deep", "all", "lm"]), min_size=1),
    claims=st.none() | st.sets(st.sampled_from(["a", "b", "c"]), min_size=1),
    seeds=st.none() | st.integers(1, 3),
)
def test_a_filter_takes_runs_away_and_changes_nothing_else(
    arms: set[str] | None, claims: set[str] | None, seeds: int | None
) -> None:
    everything = expand(STUDY)
    some = expand(STUDY, arms=arms, claims=claims, seeds=seeds)
    own = {"lm", "reference"}  # the track's seed is 7
    assert len({spec.label for spec in some}) == len(some)
    if seeds is None:
        assert some == [spec for spec in everything if spec in some]
    else:
        kept = [spec for spec in some if spec.arm not in own]
        assert kept == [spec for spec in everything if spec in kept]

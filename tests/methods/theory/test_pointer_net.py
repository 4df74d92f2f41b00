"""Fidelity checks of Ptr-Net: what only the right method satisfies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from replicata.data.sequence.geometry import Geometry
from replicata.methods.theory.pointer_net import PointerNet, PointerNetwork
from replicata.nn.additive_attention import AdditiveAttention
from replicata.run.compose import compose
from replicata.run.execute import build
from replicata.run.identity import resolved
from replicata.streams import Streams

BOTH = pytest.mark.parametrize("context", [False, True])


def network(context: bool = False, hidden: int = 6, bound: float = 0.5) -> PointerNetwork:
    with Streams(0).init.as_global():
        return PointerNetwork(2, hidden, context, bound).double()


def batch(n: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    points = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return points, torch.tensor([[2, 5, 3, 0], [4, 1, 0, -100]])


# Pointing: Eqs. (1) to (3) ------------------------------------------------------------------


@BOTH
@given(st.integers(5, 30))
@settings(max_examples=10, deadline=None)
def test_there_is_a_probability_for_each_point_and_the_end(context: bool, n: int) -> None:
    points, targets = batch(n)
    shares = network(context)(points, targets).softmax(2)
    assert shares.shape == (2, 4, n + 1)
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("hidden", [3, 128])
def test_parameters_are_two_lstms_a_scorer_without_biases_an_end_and_a_beginning(hidden: int) -> None:
    d = hidden
    wanted = 2 * (4 * d * (2 + d) + 8 * d) + 2 * d * d + d + d + 2
    assert sum(p.numel() for p in network(hidden=d).parameters()) == wanted
    blended = 4 * d * d + d * d + (2 * d * d + d)  # decoder's input, W_2, the second scorer
    assert sum(p.numel() for p in network(True, hidden=d).parameters()) == wanted + blended


@BOTH
def test_it_is_torchs_cells_and_the_formula_of_the_scores(context: bool) -> None:
    """Step by step, from LSTM cells with the same weights."""
    net, (points, targets) = network(context), batch()
    cells = []
    for lstm in (net.encoder, net.decoder):
        cell = nn.LSTMCell(lstm.input_size, 6).double()
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
        cells.append(cell)
    encoder, decoder = cells

    def scores(scorer: AdditiveAttention, memory: Tensor, query: Tensor) -> Tensor:
        rows = [
            scorer.score.weight[0] @ torch.tanh(scorer.key.weight @ m + scorer.query.weight @ query) for m in memory
        ]
        return torch.stack(rows)

    logits = net(points, targets)
    for row in range(2):
        h = c = torch.zeros(1, 6, dtype=torch.float64)
        states = []
        for point in points[row]:
            h, c = encoder(point[None], (h, c))
            states.append(h[0])
        e, read, blend = torch.stack(states), net.go, torch.zeros(6, dtype=torch.float64)
        for at, slot in enumerate(targets[row].tolist()):
            if slot < 0:
                break
            h, c = decoder((torch.cat([read, blend]) if context else read)[None], (h, c))
            query = h[0]
            if net.attention is not None:
                blend = scores(net.attention, e, query).softmax(0) @ e
                query = torch.cat([query, blend])
            torch.testing.assert_close(logits[row, at], scores(net.pointer, torch.cat([net.end[None], e]), query))
            read = points[row, slot - 1]


@BOTH
def test_without_v_all_slots_are_equal_and_each_costs_the_logarithm_of_their_number(
    context: bool, fit: Callable[..., Any]
) -> None:
    method = PointerNet(hidden=6, context=context, problem="hull", optimizer=partial(torch.optim.SGD, lr=0.1))
    nn.init.zeros_(method.model.pointer.score.weight)
    data = Geometry(root="", cache="", n_train=8, n_val=4, n_test=4, n_max=5, val_lengths=[5], batch_size=4)
    trainer = fit(method, data, max_epochs=0)
    for n in (5, 9):
        part = Geometry(root="", cache="", n_train=8, n_val=4, n_test=4, n_max=5, val_lengths=[5], test_lengths=[n])
        trainer.test(method, datamodule=attach(part), verbose=False)
        assert float(trainer.callback_metrics["test/loss"]) == pytest.approx(math.log(n + 1), rel=1e-5)


def attach(data: Geometry) -> Geometry:
    data.streams = Streams(0)
    return data


@BOTH
def test_points_with_the_same_encoding_have_the_same_score(context: bool) -> None:
    """Two places differ only by the encoder's state: the keys know nothing else of a point."""
    net, (points, targets) = network(context), batch()
    memory, state = net.begin(points)
    keys = memory[1].clone()
    keys[:, 4] = keys[:, 2]
    scores, _ = net.step(targets[:, 0], state, (memory[0], keys, *memory[2:]))
    assert torch.equal(scores[:, 4], scores[:, 2])
    assert not torch.equal(scores[:, 4], scores[:, 1])
    # Of two points that are next to each other and the same, the LSTM still makes two states.
    points[:, 2] = points[:, 1]
    logits = net(points, targets)
    assert bool((logits[:, :, 2] != logits[:, :, 3]).all())


@BOTH
def test_the_decoder_reads_the_coordinates_of_the_chosen_point_and_of_no_other(context: bool) -> None:
    net, (points, _) = network(context), batch()
    memory, state = net.begin(points)
    chosen = torch.tensor([2, 4])
    before, _ = net.step(chosen, state, memory)
    moved = memory[0].clone()
    for row, slot in enumerate(chosen.tolist()):
        others = [at for at in range(6) if at != slot]
        moved[row, others] += 0.3
    again, _ = net.step(chosen, state, (moved, *memory[1:]))
    assert torch.equal(again, before)
    moved = memory[0].clone()
    moved[torch.arange(2), chosen] += 0.3
    assert not torch.isclose(net.step(chosen, state, (moved, *memory[1:]))[0], before).any()


@BOTH
def test_all_steps_at_once_are_the_steps_one_by_one(context: bool) -> None:
    net, (points, targets) = network(context), batch()
    logits = net(points, targets)
    memory, state = net.begin(points)
    for at, slots in enumerate(torch.tensor([[0, 0], [2, 4], [5, 1]])):
        one, state = net.step(slots, state, memory)
        torch.testing.assert_close(logits[:, at], one)


def test_a_blend_reaches_the_scores_only_in_the_ablation() -> None:
    """The next step reads what this one blended; pointing alone has no such state."""
    points, _ = batch()
    plain, blended = network(), network(True)
    assert len(plain.begin(points)[1]) == 2
    memory, state = blended.begin(points)
    first, _ = blended.step(torch.tensor([1, 1]), state, memory)
    other, _ = blended.step(torch.tensor([1, 1]), (*state[:2], state[2] + 1), memory)
    assert not torch.isclose(first, other).any()
    assert not any(name.startswith("attention") for name, _ in plain.named_parameters())


def test_parameters_start_uniform_within_the_bound() -> None:
    with Streams(0).init.as_global():
        method = PointerNet(problem="hull")
    for name, parameter in method.model.named_parameters():
        largest = float(parameter.detach().abs().max())
        assert (0.07 if parameter.numel() > 100 else 0) < largest <= 0.08, name


# It learns ----------------------------------------------------------------------------------


def test_it_learns_to_sort_three_numbers(fit: Callable[..., Any]) -> None:
    with Streams(0).init.as_global():
        method = PointerNet(
            in_features=1, hidden=32, bound=0.3, problem="sort", optimizer=partial(torch.optim.Adam, lr=0.01)
        )
    data = Geometry(
        root="",
        cache="",
        task="sort",
        n_min=3,
        n_max=3,
        n_train=2000,
        n_val=10,
        n_test=200,
        val_lengths=[3],
        test_lengths=[3],
        in_features=1,
        batch_size=50,
    )
    trainer = fit(method, data, max_epochs=6)
    trainer.test(method, datamodule=data, verbose=False)
    assert float(trainer.callback_metrics["test/token_acc"]) > 0.9
    assert float(trainer.callback_metrics["test/order_acc_n3"]) > 0.8


# Configs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms() -> dict[str, Any]:
    """Every arm's composed config."""
    study = compose(["experiment=theory/pointer_net"]).study
    found = {}
    for track in (study, study.tracks.tsp):
        for arm, given_ in OmegaConf.to_container(track.arms).items():
            own = given_["overrides"] if isinstance(given_, dict) else given_
            found[arm] = compose(["experiment=theory/pointer_net", *(track.get("overrides") or ()), *own])
    return found


TRAINED = ("ptr", "ptr_ctx", "s2s", "s2s_att")


def test_arms_are_what_their_names_say(arms: dict[str, Any]) -> None:
    models = {arm: OmegaConf.select(config, "model._target_") for arm, config in arms.items()}
    assert {arm for arm, model in models.items() if model} == {"s2s", "s2s_att"}
    assert (arms["s2s"].model.attention, arms["s2s_att"].model.attention) == (False, True)
    assert (arms["ptr"].method.context, arms["ptr_ctx"].method.context) == (False, True)
    assert all(resolved(arms[arm]).model.max_points == 10 for arm in ("s2s", "s2s_att"))
    rules = {arm: config.method.get("rule") for arm, config in arms.items()}
    assert {arm: rule for arm, rule in rules.items() if rule} == {
        "random_point": "random",
        "held_karp": "held_karp",
        "nearest_neighbour": "nearest_neighbour",
        "random_tour": "random",
    }


def test_arms_share_training_sets_units_steps_and_decay(arms: dict[str, Any]) -> None:
    ptr = arms["ptr"]
    for arm in TRAINED:
        config = arms[arm]
        assert {**config.data, "test_lengths": None} == {**ptr.data, "test_lengths": None}
        assert (config.trainer, config.scheduler) == (ptr.trainer, ptr.scheduler)
        assert (config.method.get("hidden") or config.model.hidden) == 128
        assert (config.method.get("bound") or config.model.bound) == 0.08
    assert ptr.data.steps_per_epoch * ptr.trainer.max_epochs == 4000
    assert arms["ptr_tsp"].data.steps_per_epoch * ptr.trainer.max_epochs == 2500
    for arm in ("held_karp", "nearest_neighbour", "random_tour"):
        assert {**arms[arm].data, "steps_per_epoch": 0} == {**arms["ptr_tsp"].data, "steps_per_epoch": 0}


def test_all_that_train_have_the_same_rates_to_choose_from() -> None:
    study = compose(["experiment=theory/pointer_net"]).study
    (entry,) = study.tuning
    assert set(entry.arms) == {*TRAINED, "ptr_tsp"}
    assert not set(entry.seeds) & set(range(study.seeds))


def test_literals_are_the_values_that_tuning_chose(arms: dict[str, Any]) -> None:
    path = Path(__file__).parents[3] / "results" / "theory" / "pointer_net_tuning.json"
    if not path.exists():
        pytest.skip("not tuned yet")
    for entry in json.loads(path.read_text())["entries"]:
        for arm, chosen in entry["chosen"].items():
            assert {key: OmegaConf.select(arms[arm], key) for key in chosen} == chosen


def test_paper_scale_takes_two_steps() -> None:
    """The full-size network, on random points of the longest sets, hulls of twenty corners."""
    config = resolved(compose(["experiment=theory/pointer_net_paper"]))
    data, method = build(config, Streams(0), {})
    assert (data.counts["train"], data.n_min, data.n_max, data.batch_size) == (1000000, 5, 50, 128)
    assert sum(p.numel() for p in method.parameters()) == 2 * (4 * 512 * 514 + 8 * 512) + 2 * 512**2 + 2 * 512 + 2
    method.setup("fit")
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(data.batch_size, data.n_max, 2, generator=generator)
    corners = torch.rand(data.batch_size, data.n_max, generator=generator).topk(20).indices + 1
    targets = torch.cat([corners, torch.zeros(data.batch_size, 1, dtype=torch.long)], 1)
    optimizer = method.configure_optimizers()
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (1.0, 0.0)
    before = {name: weight.detach().clone() for name, weight in method.named_parameters()}
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        summed, slots = method.likelihood("train", {"points": points, "targets": targets})
        losses.append(summed / slots)
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), config.trainer.gradient_clip_val)
        optimizer.step()
    assert float(losses[0].detach()) == pytest.approx(math.log(51), abs=0.05)
    assert float(losses[1].detach()) < float(losses[0].detach())
    for name, weight in method.named_parameters():
        assert torch.isfinite(weight).all()
        assert not torch.equal(weight, before[name]), name


def test_paper_scale_has_the_laptop_arms(arms: dict[str, Any]) -> None:
    paper = compose(["experiment=theory/pointer_net_paper"]).study
    assert {*paper.arms, *paper.tracks.tsp.arms} == set(arms)
    assert all(claim.scale == "paper" for claim in paper.claims)


def test_wrong_values_are_refused_by_name() -> None:
    for wrong, named in [({"hidden": 0}, "hidden"), ({"bound": 0.0}, "bound"), ({"in_features": 0}, "in_features")]:
        with pytest.raises(ValueError, match=rf"method\.{named}|{named}"):
            PointerNet(problem="hull", **wrong)

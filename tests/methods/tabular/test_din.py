"""Fidelity checks of DIN: what only the right method satisfies."""

from __future__ import annotations

import json
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

from replicata.data.tabular.interest import PlantedInterest
from replicata.methods.tabular.din import DIN, examples, interests, latest, overfitting
from replicata.models.ctr.base_model import BaseModel
from replicata.nn.field_embeddings import occurrences, weighted_pool
from replicata.run.compose import compose
from replicata.run.execute import build
from replicata.run.identity import resolved
from replicata.streams import Streams
from replicata.tasks.scoring import Scoring

SIZES = [12, 4]
MODES = pytest.mark.parametrize("activation", ["prelu", "dice"])
FORMS = pytest.mark.parametrize("normalise", [False, True])


def din(seed: int = 0, activation: Any = "prelu", **settings: Any) -> DIN:
    with Streams(seed).init.as_global():
        model = BaseModel(SIZES, dim=4, activation=activation)
        method = DIN(model=model, activation=activation, optimizer=partial(torch.optim.Adam, lr=1e-3), **settings)
    method.streams = Streams(seed)
    return method


def batch(size: int = 8, steps: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.stack([torch.randint(high, (size, steps + 1), generator=generator) for high in SIZES], 2)
    mask = torch.arange(steps) < torch.randint(1, steps + 1, (size, 1), generator=generator)
    y = torch.randint(2, (size,), generator=generator)
    history = pairs[:, 1:] * mask.unsqueeze(2)
    return {"history": history, "history_mask": mask, "candidate": pairs[:, 0], "y": y}


def weights(method: DIN, given: dict[str, Tensor]) -> Tensor:
    history, candidate = method.model.embed(given)
    return method.weights(history, given["history_mask"], candidate)


def planted(**settings: Any) -> PlantedInterest:
    sizes = {"n_train": 120, "n_val": 60, "n_test": 80, "batch_size": 40}
    facts = {"num_items": 12, "num_categories": 4, "num_interests": 2, "history": 6}
    return PlantedInterest(root="", cache="", **(facts | sizes | settings))


# Local activation unit: Eqs. (1) to (3) -----------------------------------------------------


def test_a_constant_unit_is_the_base_model() -> None:
    method = din()
    nn.init.zeros_(method.unit[-1].weight)
    nn.init.ones_(method.unit[-1].bias)
    assert torch.equal(method.score(batch()), method.model(batch()))
    mean, averaged = din(normalise=True), BaseModel(SIZES, dim=4, pooling="mean")
    nn.init.zeros_(mean.unit[-1].weight)
    averaged.load_state_dict(mean.model.state_dict())
    torch.testing.assert_close(mean.score(batch()), averaged(batch()))


@MODES
@FORMS
@pytest.mark.parametrize("training", [True, False])
def test_order_and_padding_of_the_history_do_not_matter(activation: str, normalise: bool, training: bool) -> None:
    """In training too: padded steps stay out of Dice's statistics."""
    given = batch()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    permuted = given | {"history": given["history"][:, order], "history_mask": given["history_mask"][:, order]}
    longer = given | {
        "history": torch.cat([given["history"], torch.full((8, 5, 2), 3)], 1),
        "history_mask": torch.cat([given["history_mask"], torch.zeros(8, 5, dtype=torch.bool)], 1),
    }
    plain = din(activation=activation, normalise=normalise).train(training).score(given)
    for changed in (permuted, longer):
        again = din(activation=activation, normalise=normalise).train(training)
        torch.testing.assert_close(again.score(changed), plain, rtol=1e-4, atol=1e-6)


@FORMS
def test_the_user_vector_depends_on_the_candidate(normalise: bool) -> None:
    method, given = din(normalise=normalise), batch()
    other = given | {"candidate": (given["candidate"] + 1) % torch.tensor(SIZES)}
    vectors = []
    for each in (given, other):
        history, _ = method.model.embed(each)
        vectors.append(weighted_pool(history, weights(method, each)))
    many = given["history_mask"].sum(1) > 1  # a softmax over one behaviour is 1 for every candidate
    assert bool((vectors[0] - vectors[1]).abs().sum(1)[many].gt(0).all())
    assert torch.equal(
        *(method.model.pool(method.model.embed(each)[0], each["history_mask"]) for each in (given, other))
    )


def test_the_unit_sees_both_vectors_their_difference_and_their_product() -> None:
    method, given = din(), batch()
    history, candidate = method.model.embed(given)
    assert method.unit[0].in_features == 4 * method.model.width == 32
    assert sum(p.numel() for p in method.unit.parameters()) == 32 * 36 + 36 + 36 + 36 + 1
    e, v = history[2, 0], candidate[2]
    expected = method.unit(torch.cat([v, e, v - e, v * e])[None])[0, 0]
    torch.testing.assert_close(weights(method, given)[2, 0], expected)


def test_weights_are_zero_where_padded_and_not_normalised() -> None:
    given = batch()
    free, shared = weights(din(), given), weights(din(normalise=True), given)
    for found in (free, shared):
        assert not found[~given["history_mask"]].any()
    torch.testing.assert_close(shared.sum(1), torch.ones(8))
    assert not torch.allclose(free.sum(1), torch.ones(8))
    empty = given | {"history_mask": torch.zeros_like(given["history_mask"])}
    for method in (din(), din(normalise=True), din(activation="dice")):
        assert torch.isfinite(method.score(empty)).all()
        assert not weights(method, empty).any()


def test_the_sign_of_free_weights_is_not_determined() -> None:
    method, given = din(), batch()
    before, seen = method.score(given), weights(method, given)
    with torch.no_grad():
        method.unit[-1].weight.neg_()
        method.unit[-1].bias.neg_()
        method.model.mlp[0].weight[:, : method.model.width].neg_()
    torch.testing.assert_close(weights(method, given), -seen)
    torch.testing.assert_close(method.score(given), before)


# Mini-batch aware regularisation: Eq. (4) ---------------------------------------------------


def with_counts(method: DIN, data: dict[str, Tensor]) -> DIN:
    method.occurrences.copy_(occurrences(*method.model.rows(data), len(method.occurrences)))
    return method


def test_a_step_of_the_regulariser_is_the_papers_update() -> None:
    given = batch(size=30)
    method = with_counts(din(mba=0.5), given)
    part = {name: column[:4] for name, column in given.items()}
    table = method.model.embeddings.weight
    penalty = method.regulariser(part)
    assert penalty is not None
    penalty.backward()
    assert table.grad is not None
    rows, present = method.model.rows(part)
    inside = torch.zeros(len(table), dtype=torch.bool)
    inside[rows[present]] = True
    assert not inside.all()
    assert not table.grad[~inside].any()
    expected = 0.5 * table.detach() / method.occurrences.unsqueeze(1)
    torch.testing.assert_close(table.grad[inside], expected[inside])


@given(st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_over_an_epoch_it_is_plain_l2(seed: int) -> None:
    data = batch(size=40, seed=seed)
    method = with_counts(din(mba=2.0), data)
    singles = [method.regulariser({name: column[row : row + 1] for name, column in data.items()}) for row in range(40)]
    used = method.occurrences > 0
    plain = method.model.embeddings.weight[used].square().sum()
    torch.testing.assert_close(sum(singles), plain, rtol=1e-4, atol=1e-5)


def test_occurrences_are_counted_in_the_training_set(fit: Callable[..., Any]) -> None:
    method, data = din(mba=0.1), planted()
    trainer = fit(method, data)
    train = data.splits["train"]
    for value in range(SIZES[0]):
        holds = (train["history"][..., 0] == value).any(1) | (train["candidate"][:, 0] == value)
        assert int(method.occurrences[value]) == int(holds.sum())
    assert float(trainer.callback_metrics["train/regulariser"]) > 0
    assert sum(len(part["y"]) for part in examples(data, "train", size=50)) == 120


def test_without_it_nothing_is_added() -> None:
    method = din()
    assert method.regulariser(batch()) is None
    assert "occurrences" not in method.state_dict()
    with pytest.raises(ValueError, match=r"method\.mba"):
        din(mba=-1.0)


# What is measured ---------------------------------------------------------------------------


def test_activation_gap_is_over_clicked_examples(fit: Callable[..., Any]) -> None:
    method, data = din(), planted()
    trainer = fit(method, data)
    trainer.test(method, datamodule=data, verbose=False)
    test = data.splits["test"]
    same = (test["history"][..., 1] == test["candidate"][:, None, 1]) & test["history_mask"]
    clicked = (test["y"] == 1).unsqueeze(1)
    found = weights(method.eval(), test)
    expected = found[same & clicked].mean() - found[~same & clicked].mean()
    assert float(trainer.callback_metrics["test/act_gap"]) == pytest.approx(float(expected.detach()), abs=1e-5)
    sizes = found.abs()[same & clicked].mean() - found.abs()[~same & clicked].mean()
    assert float(trainer.callback_metrics["test/act_size_gap"]) == pytest.approx(float(sizes.detach()), abs=1e-5)
    assert {row["candidate"] for row in method.tables["interests"]} >= {"interest 1", "interest 2", "no interest"}


def test_interests_are_ranked_by_frequency() -> None:
    category = torch.tensor([[5, 2, 5, 9, 2, 5, 0], [1, 1, 3, 3, 4, 4, 4]])
    mask = torch.tensor([[True] * 6 + [False], [True] * 7])
    rank = interests(category, mask)
    assert rank.tolist() == [[1, 2, 1, 3, 2, 1, 0], [2, 2, 3, 3, 1, 1, 1]]
    assert latest(category.unsqueeze(2), rank == 3).flatten().tolist() == [9, 3]


def test_overfitting_is_the_last_gap() -> None:
    curves = {"train/auc": [(1, 10, 0.6), (2, 20, 0.9)], "val/auc": [(1, 5, 0.7), (1, 10, 0.8), (2, 20, 0.65)]}
    assert overfitting({"curves": curves}) == pytest.approx(0.25)


# Configs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms() -> dict[str, Any]:
    """Every arm's composed config, on MovieLens."""
    name = "experiment=tabular/din"
    declared = OmegaConf.to_container(compose([name]).study.arms)
    assert isinstance(declared, dict)
    return {
        arm: compose([name, *(given["overrides"] if isinstance(given, dict) else given)])
        for arm, given in declared.items()
    }


def test_arms_are_what_their_names_say(arms: dict[str, Any]) -> None:
    scoring = f"{Scoring.__module__}.{Scoring.__qualname__}"
    for arm in ("base", "base_mean", "wide_deep", "pnn", "deepfm", "lr"):
        assert arms[arm].method["_target_"] == scoring
    assert (arms["base"].model.pooling, arms["base_mean"].model.pooling) == ("sum", "mean")
    assert not arms["din"].method.normalise
    assert arms["din"].method.mba == 0
    assert arms["din_softmax"].method.normalise
    for arm in ("din_dice", "din_mba_dice"):
        assert resolved(arms[arm]).method.activation == resolved(arms[arm]).model.activation == "dice"
    for arm in ("din_mba", "din_mba_dice"):
        assert resolved(arms[arm]).method.mba == arms[arm].lambdas.movielens > 0


def test_arms_share_embeddings_widths_data_epochs_and_selection(arms: dict[str, Any]) -> None:
    for arm, config in arms.items():
        assert (config.data, config.trainer) == (arms["din"].data, arms["din"].trainer)
        assert (config.test, config.callbacks.checkpoint.monitor, config.callbacks.checkpoint.mode) == (
            "best",
            "val/auc",
            "max",
        )
        if arm != "lr":
            assert (config.model.dim, config.model.widths) == (12, [80, 40])


def test_literals_are_the_values_that_tuning_chose(arms: dict[str, Any]) -> None:
    """Three trials for every arm and data set; MBA tries lambdas at the learning rate of the arm without."""
    path = Path(__file__).parents[3] / "results" / "tabular" / "din_tuning.json"
    tuned = set()
    for entry in json.loads(path.read_text())["entries"]:
        for arm, chosen in entry["chosen"].items():
            trials = [trial for trial in entry["trials"] if trial["arm"] == arm]
            assert len(trials) == 3
            assert max(trials, key=lambda trial: trial["value"])["values"] == chosen
            assert {key: OmegaConf.select(arms[arm], key) for key in chosen} == chosen
            tuned.add((arm, *chosen))
    assert len(tuned) == 2 * len(arms) - 1
    for mba, plain in (("din_mba", "din"), ("din_mba_dice", "din_dice")):
        assert arms[mba].rates == arms[plain].rates


def test_paper_scale_takes_two_steps() -> None:
    """The full-size model of MovieLens-20M, on random tensors of its shapes."""
    config = resolved(compose(["experiment=tabular/din_paper", "method.mba=0.01", "model.activation=dice"]))
    data, method = build(config, Streams(0), {})
    assert sum(p.numel() for p in method.parameters()) > 64 * (27278 + 20)
    assert [layer.out_features for layer in method.model.mlp if isinstance(layer, nn.Linear)] == [200, 80, 1]
    method.setup("test")
    generator, size, steps = torch.Generator().manual_seed(0), data.batch_size, data.history
    pairs = torch.stack(
        [torch.randint(high, (size, steps + 1), generator=generator) for high in (data.num_items, data.num_categories)],
        2,
    )
    given = {
        "history": pairs[:, 1:],
        "history_mask": torch.arange(steps) < torch.randint(1, steps + 1, (size, 1), generator=generator),
        "candidate": pairs[:, 0],
        "y": torch.randint(2, (size,), generator=generator),
    }
    with_counts(method, given)
    optimizer = method.configure_optimizers()["optimizer"]
    assert (optimizer.param_groups[0]["lr"], size, steps) == (1.0, 32, 100)
    before = {name: weight.detach().clone() for name, weight in method.named_parameters()}
    for step in range(2):
        optimizer.zero_grad()
        loss = method.training_step(given, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), config.trainer.gradient_clip_val)
        optimizer.step()
    assert torch.isfinite(loss)
    for name, weight in method.named_parameters():
        assert torch.isfinite(weight).all()
        assert not torch.equal(weight, before[name]), name


def test_paper_scale_has_the_laptop_arms(arms: dict[str, Any]) -> None:
    paper = compose(["experiment=tabular/din_paper"]).study
    assert set(paper.arms) == set(arms)
    assert all(claim.scale == "paper" for claim in paper.claims)

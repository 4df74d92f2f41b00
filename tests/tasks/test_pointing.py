"""Training and scoring of sequences of points."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.data.sequence.geometry import Geometry, to_targets
from replicata.metrics.geometry import tour_length
from replicata.models.lstm_seq2seq import LSTMSeq2Seq
from replicata.nn.decoding import State
from replicata.optim.tours import held_karp
from replicata.streams import Streams
from replicata.tasks.pointing import PIXELS, Pointing, sketch
from replicata.tasks.pointing_rule import PointingRule


class Oracle(nn.Module):
    """Points at what it is told for each set, or else at the lowest slot."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = answers  # (B, T) slots
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, points: Tensor, targets: Tensor) -> Tensor:
        return 30 * self.weight * F.one_hot(targets.clamp(min=0), points.shape[1] + 1)

    def begin(self, points: Tensor) -> tuple[State, State]:
        return (points[:, :, 0], self.answers[: len(points)]), (torch.zeros(len(points), dtype=torch.long),)

    def step(self, slots: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        told = memory[1].gather(1, state[0][:, None].clamp(max=memory[1].shape[1] - 1)).squeeze(1)
        return F.one_hot(told, memory[0].shape[1] + 1).float() - torch.arange(memory[0].shape[1] + 1) / 100, (
            state[0] + 1,
        )


def data(**changes: Any) -> Geometry:
    sizes = {"n_train": 40, "n_val": 6, "n_test": 12, "val_lengths": [5], "test_lengths": [5, 7], "n_max": 7}
    return Geometry(root="", cache="", **(sizes | {"batch_size": 8, "eval_batch_size": 12} | changes))


def seq2seq(problem: Any = "hull", **more: Any) -> Pointing:
    torch.manual_seed(0)
    model = LSTMSeq2Seq(max_points=7, hidden=5, embedding=2)
    return Pointing(problem=problem, model=model, optimizer=partial(torch.optim.SGD, lr=0.1), **more)


def test_the_loss_is_the_mean_over_slots_of_their_negative_log_probability(fit: Callable[..., Any]) -> None:
    method = seq2seq()
    trainer = fit(method, data(), max_epochs=0)
    points, targets = torch.rand(3, 5, 2), torch.tensor([[2, 5, 3, 0], [4, 1, 0, -100], [1, 0, -100, -100]])
    batch = {"points": points, "targets": targets}
    logs = method.model(points, targets).log_softmax(2)
    terms = [logs[row, at, slot] for row in range(3) for at, slot in enumerate(targets[row].tolist()) if slot >= 0]
    method.meters = {}
    method.setup("fit")
    summed, slots = method.likelihood("train", batch)
    assert float(slots) == len(terms) == 9
    torch.testing.assert_close(summed, -torch.stack(terms).sum())
    torch.testing.assert_close(method.training_step(batch, 0), -torch.stack(terms).mean())
    longer = batch | {"targets": F.pad(targets, (0, 3), value=-100)}
    torch.testing.assert_close(method.training_step(longer, 0), -torch.stack(terms).mean())
    hits = sum(int(logs[row, at].argmax()) == slot for row in range(3) for at, slot in enumerate(targets[row].tolist()))
    assert float(method.meters["train"].compute()["train/token_acc"]) == pytest.approx(hits / 9)
    assert trainer.world_size == 1


def test_right_answers_have_full_scores(fit: Callable[..., Any]) -> None:
    made = data(test_lengths=[7])
    made.streams = Streams(0)
    made.setup("fit")
    method = Pointing(problem="hull", model=Oracle(made.splits["test"]["targets"].long().clamp(min=0)))
    method.streams = made.streams
    trainer = fit(method, made, max_epochs=0)
    trainer.test(method, datamodule=made, verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert scores["test/hull_acc_n7"] == scores["test/simple_n7"] == 1
    assert scores["test/area_n7"] == pytest.approx(1)
    assert scores["test/token_acc"] == 1
    assert method.panel["n7"]["test/hull_acc"] == 1
    assert [(row["n"], row["hull_acc"]) for row in method.tables["lengths"]] == [(7, 1.0)]
    assert [row["set"] for row in method.tables["drawings"]] == ["7 points", "7 points, 2"]


def test_each_number_of_points_has_scores_of_its_own(fit: Callable[..., Any]) -> None:
    """Over several batches of each; the first set of every batch of four is answered wrongly."""
    made = data(eval_batch_size=4)
    made.streams = Streams(0)
    made.setup("fit")
    test = made.splits["test"]
    answers = test["targets"].long().clamp(min=0) - 1
    method = Pointing(problem="hull", model=Oracle(torch.zeros(4, 1, dtype=torch.long)))

    def decode(points: Tensor) -> Tensor:
        first = (test["points"][:, : points.shape[1]] == points[0]).all(2).all(1).nonzero().item()
        found = answers[first : first + len(points)].clone()
        found[0] = -1
        return found

    method.decode = decode  # type: ignore[method-assign]
    trainer = fit(method, made, max_epochs=0)
    trainer.test(method, datamodule=made, verbose=False)
    for n in (5, 7):
        assert float(trainer.callback_metrics[f"test/hull_acc_n{n}"]) == pytest.approx(0.75)
        assert method.panel[f"n{n}"]["test/simple"] == pytest.approx(0.75)


@pytest.mark.parametrize("beam", [1, 3])
def test_tours_are_held_to_be_valid_and_hulls_are_not(beam: int) -> None:
    points = torch.rand(6, 7, 2, generator=torch.Generator().manual_seed(0))
    tours = seq2seq("tsp", beam=beam).decode(points)
    assert torch.equal(tours[:, :7].sort(1).values, torch.arange(7).expand(6, -1))
    assert tours[:, 7:].lt(0).all()
    shortest = tour_length(points, held_karp(points))
    assert bool((tour_length(points, tours) >= shortest - 1e-9).all())
    triangles = torch.rand(4, 3, 2)
    torch.testing.assert_close(
        tour_length(triangles, seq2seq("tsp", beam=beam).decode(triangles)),
        tour_length(triangles, held_karp(triangles)),
    )
    stuck = Pointing(problem="hull", model=Oracle(torch.ones(6, 1, dtype=torch.long)))
    assert torch.equal(stuck.decode(points), torch.zeros(6, 8, dtype=torch.long))


def test_rules(fit: Callable[..., Any]) -> None:
    lengths = {}
    for rule in ("held_karp", "nearest_neighbour", "random"):
        method = PointingRule(rule=rule, problem="tsp")
        made = data(task="tsp", test_lengths=[7], n_test=200, eval_batch_size=200)
        trainer = fit(method, made)
        trainer.test(method, datamodule=made, verbose=False)
        assert float(trainer.callback_metrics["test/valid_n7"]) == 1
        lengths[rule] = float(trainer.callback_metrics["test/tour_len_n7"])
        assert (float(trainer.callback_metrics["test/tour_ratio_n7"]) == pytest.approx(1)) == (rule == "held_karp")
    assert lengths["held_karp"] < lengths["nearest_neighbour"] < lengths["random"]


def test_random_slots_are_uniform_and_end_by_themselves() -> None:
    method = PointingRule(rule="random", problem="hull")
    method.generator = torch.Generator().manual_seed(0)
    found = method.decode(torch.rand(6000, 4, 2))
    first = torch.bincount(found[:, 0] + 1, minlength=5) / 6000
    torch.testing.assert_close(first, torch.full((5,), 0.2), atol=0.025, rtol=0)
    ended = (found < 0).cumsum(1).clamp(max=1)
    assert torch.equal(ended, (found < 0).long())


def test_a_drawing_shows_points_and_both_polygons() -> None:
    points = torch.tensor([[[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]])
    triangle, nothing = torch.tensor([[0, 1, 2]]), torch.full((1, 3), -1)
    drawn, bare = sketch(points, triangle, triangle)[0], sketch(points, nothing, nothing)[0]
    assert drawn.shape == (PIXELS, PIXELS, 3)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    orange = (drawn[..., 0] - drawn[..., 2] > 0.5).sum()
    assert int(orange) > 100
    assert not (bare[..., 0] - bare[..., 2] > 0.5).any()
    row, column = (int((1.05 - 0.9) / 1.1 * PIXELS), int((0.5 + 0.05) / 1.1 * PIXELS))  # the upper corner
    assert bare[row, column].tolist() == [0, 0, 0]


def test_wrong_values_are_refused_by_name() -> None:
    for make, named in [
        (lambda: Pointing(problem="knapsack"), r"method\.problem"),  # type: ignore[arg-type]
        (lambda: Pointing(problem="hull", beam=0), r"method\.beam"),
        (lambda: PointingRule(rule="best", problem="tsp"), r"method\.rule"),  # type: ignore[arg-type]
        (lambda: PointingRule(rule="held_karp", problem="hull"), r"method\.rule"),
    ]:
        with pytest.raises(ValueError, match=named):
            make()


def test_targets_of_an_oracle_are_decoded_to_its_answers() -> None:
    answers = torch.tensor([[3, 1, -1, -1], [0, 2, 3, -1]])
    method = Pointing(problem="hull", model=Oracle(to_targets(answers).long().clamp(min=0)))
    assert torch.equal(method.decode(torch.rand(2, 4, 2))[:, :4], answers)

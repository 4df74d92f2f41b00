"""PointingRule: answers to problems about points by a rule that has nothing to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.data.sequence.geometry import most_steps, to_answers
from replicata.nn.decoding import State, beam_search
from replicata.optim.tours import held_karp, nearest_neighbour
from replicata.tasks.pointing import Pointing
from replicata.tasks.procedure import Procedure

Rule = Literal["random", "nearest_neighbour", "held_karp"]


class PointingRule(Procedure, Pointing):  # type: ignore[misc]  # a training batch is the number of an item
    """Scores a rule on the test sets as :class:`~replicata.tasks.pointing.Pointing` scores a model.

    Args:
        rule: ``random`` draws each slot uniformly from those that may follow, the end among them; ``nearest_neighbour``
            and ``held_karp`` (the shortest tour) are for ``tsp``.
        **task: see :class:`~replicata.tasks.pointing.Pointing`; there is no model.

    Raises:
        ValueError: if ``rule`` is unknown or not for the problem.
    """

    def __init__(self, rule: Rule, **task: Any) -> None:
        super().__init__(**task)
        if rule not in get_args(Rule):
            raise ValueError(f"method.rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
        if rule != "random" and self.problem != "tsp":
            raise ValueError(f"method.rule={rule} is for tours: set data.task=tsp, or method.rule=random")
        self.rule = rule

    def work(self, item: int) -> Mapping[str, float]:
        return {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """A rule gives no probabilities: there is no loss."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.generator = self.streams.noise.at(batch_idx).torch
        self.judge(batch)

    def decode(self, points: Tensor) -> Tensor:
        if self.rule != "random":
            return (held_karp if self.rule == "held_karp" else nearest_neighbour)(points)
        n = points.shape[1]

        def step(slots: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
            # The largest of equal chances: uniform over whatever is not barred.
            return torch.rand(len(slots), n + 1, generator=self.generator).to(slots.device), state

        state = (torch.zeros(len(points), 0, device=points.device),)
        return to_answers(beam_search(step, (), state, steps=most_steps(self.problem, n), bar=self.bar(n))[0])

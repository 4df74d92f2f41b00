"""Search: propose a candidate, evaluate it, learn from its score; the unit of work is one candidate."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from replicata.data.module import fingerprint
from replicata.optim.candidates import CandidateTable, Scores, digest, source_digest
from replicata.streams import Stream
from replicata.tasks.procedure import Procedure

log = logging.getLogger(__name__)

Spec = Any  # plain values


class Search(Procedure):
    """A search over candidates that are trained inside the run.

    Evaluations go through a :class:`~replicata.optim.candidates.CandidateTable`, keyed by the candidate's content and
    the run's seed, so that a candidate that comes up twice costs nothing and scores the same. With ``share`` the table
    is a file that all runs of the experiment share; it changes how long they take and nothing else. The searcher is
    told validation scores only; test scores are read for the one candidate that :meth:`finalise` picks.

    A resumed run tells the searcher all earlier scores again; a method for which this is slow, or not the same,
    overrides :meth:`state` and :meth:`restore`.

    Metrics: ``val/best``; ``val/mean_score``, over the candidates after ``burn_in``; ``val/top_mean``, of the ``top``
    best; ``cost/candidates``; ``cost/distinct``, the trainings that the run needs if nothing is in the table; and what
    ``finalise`` returns. The table ``units`` holds ``val/score``, ``val/best``, ``cost/candidates`` and
    ``cost/distinct`` after each candidate.

    Args:
        candidates: Candidates that are evaluated.
        burn_in: First candidates that ``val/mean_score`` leaves out.
        top: Candidates in ``val/top_mean``.
        share: Whether scores are kept beside the runs of the experiment, in ``candidates/``.
        **task: see :class:`~replicata.tasks.base.Task`.
    """

    def __init__(self, candidates: int, *, burn_in: int = 0, top: int = 5, share: bool = False, **task: Any) -> None:
        if candidates < 1:
            raise ValueError(f"method.candidates must be at least 1, got {candidates}")
        if not 0 <= burn_in < candidates:
            raise ValueError(f"method.burn_in must leave some of the {candidates} candidates, got {burn_in}")
        if top < 1:
            raise ValueError(f"method.top must be at least 1, got {top}")
        super().__init__(**task)
        self.candidates, self.burn_in, self.top, self.share = candidates, burn_in, top, share
        self.history: list[tuple[Spec, float]] = []
        self._distinct: set[str] = set()
        self.table: CandidateTable

    # What a method defines -----------------------------------------------------------------

    def propose(self, item: int) -> Spec:
        """The next candidate, as plain values. Draws come from ``self.streams.search.at(item)``."""
        raise TypeError(f"{type(self).__name__} does not say what to try next: implement propose()")

    def evaluate(self, spec: Spec, stream: Stream) -> Mapping[str, float]:
        """Train a candidate and return its scores ``val`` and ``test``: a function of the arguments."""
        raise TypeError(f"{type(self).__name__} does not say what a candidate is worth: implement evaluate()")

    def observe(self, spec: Spec, score: float) -> None:
        """Learn the validation score of a candidate."""

    def content(self, spec: Spec) -> Any:
        """What makes two candidates the same, as plain values; by default the spec."""
        return spec

    def conditions(self) -> Mapping[str, Any]:
        """Settings of the method that the scores depend on, as plain values."""
        return {}

    def finalise(self) -> Mapping[str, float]:
        """Metrics of the result; by default of the best candidate (the first of equals), trained once more."""
        best, _ = max(self.history, key=lambda pair: pair[1])
        scores = self.scores(best, repeat=1)
        return {"val/acc": scores["val"], "test/acc": scores["test"]}

    # Evaluation ----------------------------------------------------------------------------

    def scores(self, spec: Spec, repeat: int = 0) -> Scores:
        """Scores of a candidate; with another ``repeat`` of another training of it."""
        seed = [*self.streams.noise.key, repeat]
        return self.table.evaluate(self.content(spec), seed, lambda: self.evaluate(spec, Stream(*seed)))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        context = {
            "method": f"{type(self).__module__}.{type(self).__qualname__}",
            "code": source_digest(type(self)),
            "conditions": dict(self.conditions()),
            "data": self.data_digest(),
            "torch": torch.__version__,
            "device": self.device.type,
            "precision": str(self.trainer.precision),
            "threads": torch.get_num_threads(),
            "machine": [platform.node(), torch.backends.cpu.get_cpu_capability()],
        }
        # <outputs>/<experiment>/<hash>/seed<k> is the run's directory.
        folder = Path(self.trainer.default_root_dir).parents[1] / "candidates" if self.share else None
        self.table = CandidateTable(folder, context)

    def data_digest(self) -> str:
        """Digest of the splits as they were cut."""
        return fingerprint(self.trainer.datamodule.splits)  # type: ignore[attr-defined]

    # Work ----------------------------------------------------------------------------------

    def units(self) -> int:
        return self.candidates

    def work(self, item: int) -> Mapping[str, float]:
        spec = self.propose(item)
        score = self.scores(spec)["val"]
        self._remember(spec, score)
        return {
            "val/score": score,
            "val/best": max(score for _, score in self.history),
            "cost/candidates": len(self.history),
            "cost/distinct": len(self._distinct),
        }

    def _remember(self, spec: Spec, score: float) -> None:
        self.observe(spec, score)
        self.history.append((spec, score))
        self._distinct.add(digest(self.content(spec)))

    def finish(self) -> Mapping[str, float]:
        scores = [score for _, score in self.history]
        late, top = scores[self.burn_in :], sorted(scores)[-self.top :]
        final = self.finalise()
        log.info("%d candidates trained, %d taken from the table", self.table.trainings, self.table.hits)
        return {
            "val/best": max(scores),
            "val/mean_score": sum(late) / len(late),
            "val/top_mean": sum(top) / len(top),
            "cost/candidates": len(scores),
            "cost/distinct": len(self._distinct),
            **final,
        }

    def state(self) -> dict[str, Any]:
        return {"history": [list(pair) for pair in self.history]}

    def restore(self, state: Mapping[str, Any]) -> None:
        for spec, score in state["history"]:
            self._remember(spec, score)

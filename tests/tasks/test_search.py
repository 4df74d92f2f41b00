"""Search: one candidate a unit; going on after an interruption, and with or without a table, it ends the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from replicata.data.synthetic.sphere import Sphere
from replicata.streams import Stream
from replicata.tasks.search import Search


class Climb(Search):
    """Steps from the best place so far; a place is worth its closeness to 7, with noise of its own."""

    def __init__(self, stop_at: int | None = None, **search: Any) -> None:
        super().__init__(**({"candidates": 8, "burn_in": 2, "top": 3} | search))
        self.stop_at = stop_at
        self.best, self.told, self.trained = (0, 0.0), [], []

    def propose(self, item: int) -> list[int]:
        if item == self.stop_at:
            raise KeyboardInterrupt
        return [self.best[0] + int(self.streams.search.at(item).numpy.integers(-1, 3)), item % 2]

    def content(self, spec: list[int]) -> int:
        return spec[0]

    def evaluate(self, spec: list[int], stream: Stream) -> Mapping[str, float]:
        self.trained.append(spec)
        noise = float(stream.at(1000 + spec[0]).numpy.random()) / 50
        return {"val": 1 / (1 + abs(spec[0] - 7)) - noise, "test": 1 / (1 + abs(spec[0] - 7)) - noise / 2}

    def observe(self, spec: list[int], score: float) -> None:
        self.told.append((spec, score))
        self.best = max(self.best, (spec[0], score), key=lambda pair: pair[1])


def data() -> Sphere:
    return Sphere(root="", cache="", n_train=7, n_val=3, n_test=3)


def values(trainer: pl.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_metrics_are_those_of_the_scores(fit: Callable[..., Any]) -> None:
    method = Climb()
    logged = values(fit(method, data()))
    scores = [score for _, score in method.told]
    assert logged["val/best"] == max(scores)
    assert logged["val/mean_score"] == sum(scores[2:]) / 6
    assert logged["val/top_mean"] == pytest.approx(sum(sorted(scores)[-3:]) / 3)
    assert logged["cost/candidates"] == 8
    assert logged["cost/distinct"] == len({spec[0] for spec, _ in method.told}) < 8
    assert len(method.trained) == logged["cost/distinct"] + 1
    assert [row["cost/candidates"] for row in method.tables["units"]] == list(range(1, 9))
    assert [row["val/best"] for row in method.tables["units"]] == [max(scores[: n + 1]) for n in range(8)]


def test_the_result_is_the_best_candidate_trained_once_more(fit: Callable[..., Any]) -> None:
    method = Climb()
    logged = values(fit(method, data()))
    spec = max(method.told, key=lambda pair: pair[1])[0]
    assert method.trained[-1] == spec
    key = method.streams.noise.key
    assert logged["test/acc"] == method.evaluate(spec, Stream(*key, 1))["test"]
    assert logged["val/acc"] == method.evaluate(spec, Stream(*key, 1))["val"] != logged["val/best"]


def test_a_stopped_search_goes_on_as_if_nothing_had_been(
    fit: Callable[..., Any], saving: Callable[..., Any], tmp_path: Path
) -> None:
    whole = Climb()
    expected = values(fit(whole, data()))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Climb(stop_at=5), data(), callbacks=[saving(tmp_path / "last.ckpt")])
    resumed = Climb()
    assert values(fit(resumed, data(), resume=tmp_path / "last.ckpt")) == expected
    assert resumed.told == whole.told
    assert resumed.tables == whole.tables


def test_a_shared_table_changes_nothing_but_the_trainings(fit: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "experiment" / "hash" / "seed0"
    alone, first, second = Climb(), Climb(share=True), Climb(share=True)
    expected = values(fit(alone, data()))
    assert values(fit(first, data(), default_root_dir=folder)) == expected
    assert list((tmp_path / "experiment" / "candidates").glob("*.jsonl"))
    assert values(fit(second, data(), default_root_dir=folder)) == expected
    assert second.tables == first.tables == alone.tables
    assert first.trained == alone.trained
    assert second.trained == []


def test_another_seed_data_or_setting_shares_no_scores(fit: Callable[..., Any], tmp_path: Path) -> None:
    class Longer(Climb):
        def conditions(self) -> Mapping[str, Any]:
            return {"epochs": 9}

    folder = tmp_path / "experiment" / "hash" / "seed0"
    fit(Climb(share=True), data(), default_root_dir=folder)
    larger = Sphere(root="", cache="", n_train=8, n_val=3, n_test=3)
    for method, module, seed in (
        (Climb(share=True), data(), 1),
        (Climb(share=True), larger, 0),
        (Longer(share=True), data(), 0),
    ):
        fit(method, module, seed=seed, default_root_dir=folder)
        assert method.table.trainings == len(method._distinct) + 1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"candidates": 0}, "method.candidates"), ({"burn_in": 8}, "method.burn_in"), ({"top": 0}, "method.top")],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Climb(**wrong)


def test_a_search_without_its_hooks_says_so(fit: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="implement propose"):
        fit(Search(candidates=1), data())

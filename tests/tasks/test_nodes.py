"""The full-batch node task: what is scored when, and with which weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback

from replicata.data.graph.sbm import SBM
from replicata.data.loaders import Batch
from replicata.models.graph.gcn import GCN
from replicata.run.callbacks.checkpoint import Checkpoint
from replicata.run.callbacks.early_stopping import EarlyStopping
from replicata.streams import Streams
from replicata.tasks.nodes import Nodes


def data() -> SBM:
    return SBM(num_nodes=120, in_features=16, num_classes=4, per_class=5, n_val=40, root=".", cache=".")


def nodes(**changed: Any) -> Nodes:
    torch.manual_seed(0)
    return Nodes(num_classes=4, model=GCN(16, 4), optimizer=partial(torch.optim.Adam, lr=0.01), **changed)


class Scores(Callback):
    """Keeps every epoch's metrics and recomputes the validation loss from the weights of its end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.rows:
            self._keep(trainer, pl_module)
        self.rows.append({})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._keep(trainer, pl_module)

    def _keep(self, trainer: Any, pl_module: Any) -> None:
        graph = pl_module.graph(trainer.datamodule.graph)
        pl_module.eval()
        with torch.no_grad():
            logits = pl_module(graph)[graph["val"]]
        pl_module.train()
        again = F.cross_entropy(logits, graph["y"][graph["val"]])
        self.rows[-1] = {name: float(value) for name, value in trainer.callback_metrics.items()} | {
            "again": float(again)
        }


def test_one_step_is_one_epoch_and_validation_uses_the_weights_after_it(fit: Any) -> None:
    scores = Scores()
    trainer = fit(nodes(), data(), max_epochs=5, callbacks=[scores])
    assert trainer.global_step == 5
    assert len(scores.rows) == 5
    for row in scores.rows:
        assert row["val/loss"] == pytest.approx(row["again"], abs=1e-6)
    assert scores.rows[-1]["train/loss"] < scores.rows[0]["train/loss"]


def test_test_scores_validation_and_test_nodes_with_the_same_weights(fit: Any) -> None:
    method = nodes(smoothness=True)
    trainer = fit(method, data(), max_epochs=3)
    graph = method.graph(trainer.datamodule.graph)
    with torch.no_grad():
        logits = method.eval()(graph)
    trainer.test(method, datamodule=trainer.datamodule, verbose=False)
    scores = trainer.callback_metrics
    for split in ("val", "test"):
        chosen = graph[split]
        expected = F.cross_entropy(logits[chosen], graph["y"][chosen])
        torch.testing.assert_close(scores[f"{split}/loss"], expected)
        accuracy = (logits[chosen].argmax(1) == graph["y"][chosen]).float().mean()
        torch.testing.assert_close(scores[f"{split}/acc"], accuracy)
    (row,) = method.tables["depth"]
    assert (row["network"], row["depth"]) == ("GCN", 2)
    assert row["acc"] == pytest.approx(float(scores["test/acc"]))
    assert row["smv"] == pytest.approx(float(scores["test/smv"]))


def test_smoothness_is_reported_on_request_only(fit: Any) -> None:
    method = nodes()
    trainer = fit(method, data())
    trainer.test(method, datamodule=trainer.datamodule, verbose=False)
    assert "test/smv" not in trainer.callback_metrics
    assert not method.tables


def test_the_adjacency_is_normalised_once_per_graph(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Nodes.precompute

    def counted(self: Nodes, batch: Batch) -> Batch:
        calls.append(1)
        return original(self, batch)

    monkeypatch.setattr(Nodes, "precompute", counted)
    method = nodes()
    trainer = fit(method, data(), max_epochs=4)
    trainer.test(method, datamodule=trainer.datamodule, verbose=False)
    assert len(calls) == 1
    method.graph({name: value.clone() for name, value in trainer.datamodule.graph.items() if name != "x"})
    assert len(calls) == 2


def test_what_a_test_computes_can_be_trained_on() -> None:
    """The test runs in inference mode, whose tensors autograd refuses."""
    method, graphs = nodes(), data()
    graphs.streams = Streams(0)
    graphs.setup()
    with torch.inference_mode():
        method(method.graph(graphs.graph))
    graph = method.graph(graphs.graph)
    assert not graph["adj"].is_inference()
    method.objective(graph, method(graph), "train").backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_test_nodes_labels_cannot_leak_into_training(fit: Any) -> None:
    losses = []
    for flip in (False, True):
        graphs, method = data(), nodes()
        graphs.streams = Streams(0)
        graphs.setup()
        if flip:
            test = graphs.graph["test"]
            graphs.graph["y"][test] = (graphs.graph["y"][test] + 1) % 4
        trainer = fit(method, graphs, max_epochs=4)
        losses.append((float(trainer.callback_metrics["train/loss"]), float(trainer.callback_metrics["val/loss"])))
    assert losses[0] == losses[1]


class Cut(Callback):
    """Ends the process's work at the start of an epoch, as a kill would."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 4:
            raise InterruptedError


def test_a_run_that_was_cut_and_resumed_ends_bit_for_bit_the_same(fit: Callable[..., Any], tmp_path: Path) -> None:
    def run(folder: str, *more: Callback, resume: bool = False) -> tuple[Nodes, Checkpoint, EarlyStopping]:
        checkpoint = Checkpoint(every_seconds=None, every_n_batches=1, monitor="val/loss")
        stopping = EarlyStopping(window=3, start=0.0)
        method, place = nodes(), tmp_path / folder
        fit(
            method,
            data(),
            resume=place / "checkpoints" / "last.ckpt" if resume else None,
            max_epochs=9,
            callbacks=[checkpoint, stopping, *more],
            default_root_dir=place,
            enable_checkpointing=None,
            num_sanity_val_steps=2,
        )
        return method, checkpoint, stopping

    whole = run("whole")
    with pytest.raises(InterruptedError):
        run("cut", Cut())
    again = run("cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), again[0].parameters(), strict=True))
    assert whole[1].metrics == again[1].metrics
    assert whole[1].best is not None
    assert again[1].best is not None
    assert whole[1].best["score"] == again[1].best["score"]
    assert list(whole[2].values) == list(again[2].values)

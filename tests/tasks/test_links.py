"""The link task: what is removed, scored and optimised."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback

from replicata.data.graph.powerlaw_cluster import PowerlawCluster
from replicata.models.graph.gae import GAE, DotDecoder, MLPDecoder
from replicata.models.graph.gcn import GCN
from replicata.models.graph.heuristics import CommonNeighbours, LinkHeuristics
from replicata.run.callbacks.checkpoint import Checkpoint
from replicata.tasks.link_heuristic import LinkHeuristic
from replicata.tasks.links import Links, without


def data() -> PowerlawCluster:
    return PowerlawCluster(num_nodes=100, in_features=2, batch_size=60, root=".", cache=".")


def links(mlp: bool = True, **changed: Any) -> Links:
    torch.manual_seed(0)
    decoder = MLPDecoder(8, 1, widths=(8,)) if mlp else DotDecoder()
    adam = partial(torch.optim.Adam, lr=0.01)
    return Links(k=20, model=GAE(GCN(2, 8, hidden=8, dropout=0.2), decoder), optimizer=adam, **changed)


def test_without_takes_out_both_directions_and_nothing_else() -> None:
    edges = torch.tensor([[0, 1, 1, 2, 0, 3], [1, 0, 2, 1, 3, 0]])
    assert without(edges, torch.tensor([[2, 1], [0, 2]])).T.tolist() == [[0, 1], [1, 0], [0, 3], [3, 0]]
    assert without(edges, torch.empty(0, 2, dtype=torch.long)).tolist() == edges.tolist()


@pytest.mark.parametrize("remove", [True, False])
def test_the_encoder_does_not_see_a_batchs_links(fit: Any, remove: bool) -> None:
    seen = []

    class Watched(Links):
        def encode(self, graph: Any) -> Any:
            seen.append((self.training, graph))
            return super().encode(graph)

    torch.manual_seed(0)
    model = GAE(GCN(2, 8, hidden=8), DotDecoder())
    method = Watched(k=20, remove_targets=remove, model=model, optimizer=partial(torch.optim.Adam, lr=0.01))
    trainer = fit(method, data())
    training = [graph for train, graph in seen if train]
    assert len(training) == trainer.num_training_batches
    for graph in training:
        known = {(a, b) for a, b in graph["graph"].T.tolist()}
        hidden = [(a, b) not in known and (b, a) not in known for a, b in graph["pos"].tolist()]
        assert all(hidden) if remove else not any(hidden)
    (evaluated,) = [graph for train, graph in seen if not train]
    assert torch.equal(evaluated["graph"], trainer.datamodule.graph)


def test_the_loss_is_logistic_in_equal_shares() -> None:
    pos, neg = torch.randn(7), torch.randn(4)
    expected = F.binary_cross_entropy_with_logits(pos, torch.ones(7)) + F.binary_cross_entropy_with_logits(
        neg, torch.zeros(4)
    )
    torch.testing.assert_close(links().objective(pos, neg), expected)


@pytest.mark.parametrize("mlp", [True, False])
def test_scores_do_not_depend_on_the_chunk(fit: Any, mlp: bool) -> None:
    values = []
    for chunk in (4096, 7):
        method = links(mlp, chunk=chunk)
        trainer = fit(method, data())
        trainer.test(method, datamodule=trainer.datamodule, verbose=False)
        values.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert {"test/hits@20", "test/mrr", "test/auc", "test/ap", "test/loss"} <= set(values[0])


def test_the_encoder_may_have_a_learning_rate_of_its_own() -> None:
    method = links(encoder_lr=0.5)
    encoder, rest = method.configure_optimizers().param_groups
    assert (encoder["lr"], rest["lr"]) == (0.5, 0.01)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in method.model.encoder.parameters()}  # type: ignore[union-attr]
    assert len(encoder["params"]) + len(rest["params"]) == len(list(method.parameters()))
    (group,) = links().configure_optimizers().param_groups
    assert group["lr"] == 0.01


def test_a_heuristic_is_scored_on_the_message_edges(fit: Any) -> None:
    method = LinkHeuristic(k=20, model=CommonNeighbours())
    trainer = fit(method, data())
    split, metrics = trainer.datamodule, trainer.callback_metrics
    dense = torch.zeros(100, 100, dtype=torch.float64)
    dense[split.graph[0], split.graph[1]] = 1
    counts = dense @ dense
    for name in ("val", "test"):
        pos, neg = (counts[pairs[:, 0], pairs[:, 1]] for pairs in (split.links[name], split.non_links[name]))
        share = (pos > neg.topk(20).values[-1]).double().mean()
        assert float(metrics[f"{name}/hits@20"]) == pytest.approx(float(share), abs=1e-6)


def test_several_heuristics_are_a_panel(fit: Any) -> None:
    several, one = LinkHeuristic(k=20, model=LinkHeuristics()), LinkHeuristic(k=20, model=CommonNeighbours())
    fit(several, data())
    alone = fit(one, data()).callback_metrics
    assert set(several.panel) == {"cn", "aa", "ra"}
    assert several.panel["cn"] == {name: float(value) for name, value in alone.items()}


class Cut(Callback):
    """Ends the process's work in the middle of an epoch, as a kill would."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 3:
            raise InterruptedError


def test_a_run_that_was_cut_and_resumed_ends_bit_for_bit_the_same(fit: Any, tmp_path: Path) -> None:
    def run(folder: str, *more: Callback, resume: bool = False) -> tuple[Links, Checkpoint]:
        checkpoint = Checkpoint(every_seconds=None, every_n_batches=1, monitor="val/hits@20", mode="max")
        method, place = links(), tmp_path / folder
        fit(
            method,
            data(),
            resume=place / "checkpoints" / "last.ckpt" if resume else None,
            max_epochs=3,
            callbacks=[checkpoint, *more],
            default_root_dir=place,
            enable_checkpointing=None,
        )
        return method, checkpoint

    whole = run("whole")
    with pytest.raises(InterruptedError):
        run("cut", Cut())
    again = run("cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), again[0].parameters(), strict=True))
    assert whole[1].metrics == again[1].metrics


@pytest.mark.parametrize("key", ["k", "chunk"])
def test_wrong_values_are_refused_by_name(key: str) -> None:
    with pytest.raises(ValueError, match=rf"method\.{key}"):
        Links(**{key: 0})
    with pytest.raises(ValueError, match=r"method\.k"):
        LinkHeuristic(k=0)

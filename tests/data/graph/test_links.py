"""Link splits: exact non-edges, nothing held out in the message graph, batches that are a function of the seed."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit

from replicata.data.graph.links import LinkDataModule, undirected
from replicata.data.graph.non_edges import NonEdges
from replicata.data.graph.planetoid_links import PlanetoidLinks
from replicata.data.graph.powerlaw_cluster import PowerlawCluster
from replicata.data.graph.seal import SEAL
from replicata.errors import UserError
from replicata.streams import Stream, Streams

PLACES = {"root": ".", "cache": "."}


def pairs_of(tensor: Tensor) -> set[tuple[int, int]]:
    return {(a, b) for a, b in tensor.tolist()}


def graph(seed: int = 0, **changed: Any) -> PowerlawCluster:
    data = PowerlawCluster(**({"num_nodes": 120, "in_features": 2, "batch_size": 50} | PLACES | changed))  # type: ignore[arg-type]
    data.streams = Streams(seed)
    data.setup()
    return data


# Non-edges ----------------------------------------------------------------------------------


@given(nodes=st.integers(2, 25), seed=st.integers(0, 200), share=st.sampled_from([0.0, 0.2, 0.8, 1.0]))
@settings(max_examples=40, deadline=None)
def test_non_edges_are_all_pairs_without_an_edge(nodes: int, seed: int, share: float) -> None:
    upper = (torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)) < share).triu(1)
    edges = (upper | upper.T).nonzero().T
    others = NonEdges(edges, nodes)
    expected = set(combinations(range(nodes), 2)) - pairs_of(upper.nonzero())
    assert others.count == len(expected)
    assert pairs_of(others.pairs(np.arange(others.count))) == expected
    half = others.draw(others.count // 2, Stream(seed))
    assert len(pairs_of(half)) == len(half)
    assert pairs_of(half) <= expected
    with pytest.raises(UserError, match="the graph has only"):
        others.draw(others.count + 1, Stream(0))


def test_non_edges_of_a_large_graph_are_numbered_exactly() -> None:
    nodes = 3_000_000
    others = NonEdges(torch.empty(2, 0, dtype=torch.long), nodes)
    ends = np.array([0, others.count - 1, others.count // 2, (nodes - 1) * (nodes - 2) // 2])
    low, high = others.pairs(ends).T.numpy()
    assert (high * (high - 1) // 2 + low == ends).all()
    assert (low < high).all()
    assert high.max() == nodes - 1


# Splits -------------------------------------------------------------------------------------


def test_the_split_is_a_partition_of_the_sizes_of_random_link_split() -> None:
    data = graph()
    parts = [pairs_of(data.links[name]) for name in ("train", "val", "test")]
    assert set.union(*parts) == pairs_of(data.edges.T)
    assert sum(map(len, parts)) == data.edges.shape[1]
    both = torch.cat([data.edges, data.edges.flip(0)], dim=1)
    theirs = RandomLinkSplit(0.1, 0.2, is_undirected=True, add_negative_train_samples=False)(
        Data(edge_index=both, num_nodes=120)
    )
    for name, split in zip(("train", "val", "test"), theirs, strict=True):
        assert len(data.links[name]) == int((split.edge_label == 1).sum())
        assert data.graph.shape == split.edge_index.shape or name == "test"  # theirs tests on the validation links too


def test_message_edges_are_the_training_links_in_both_directions() -> None:
    data = graph()
    train = pairs_of(data.links["train"])
    assert pairs_of(data.graph.T) == train | {(b, a) for a, b in train}


def test_held_out_negatives_are_non_edges_of_the_whole_graph_and_differ() -> None:
    data = graph()
    val, test = (pairs_of(data.non_links[name]) for name in ("val", "test"))
    assert (len(val), len(test)) == (len(data.links["val"]), len(data.links["test"]))
    assert not val & test
    assert not (val | test) & pairs_of(data.edges.T)
    assert all(a < b for a, b in val | test)


def test_features_are_one_and_the_degree_in_the_message_graph() -> None:
    data = graph()
    degree = torch.zeros(120).index_add_(0, data.graph[0], torch.ones(data.graph.shape[1]))
    torch.testing.assert_close(data.x, torch.stack([torch.ones(120), (1 + degree).log()], dim=1))


def test_hidden_links_are_neither_messages_nor_targets_and_the_rest_stays() -> None:
    whole, half = graph(), graph(observed=0.5)
    assert len(half.links["train"]) == round(0.5 * len(whole.links["train"]))
    assert pairs_of(half.links["train"]) < pairs_of(whole.links["train"])
    assert pairs_of(half.graph.T[: len(half.links["train"])]) == pairs_of(half.links["train"])
    for name in ("val", "test"):
        assert torch.equal(half.links[name], whole.links[name])
        assert torch.equal(half.non_links[name], whole.non_links[name])


# Batches ------------------------------------------------------------------------------------


class Trainer:
    """As much of a trainer as a loader asks for."""

    class strategy:
        root_device = torch.device("cpu")


def epoch(data: LinkDataModule, number: int = 0, start: int = 0) -> list[dict[str, Tensor]]:
    data.trainer = Trainer()  # type: ignore[assignment]
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    loader.load_state_dict({"epoch": number, "position": start})
    return list(loader)


def test_an_epoch_holds_each_link_once_and_as_many_fresh_non_edges() -> None:
    data = graph()
    first, second = epoch(data), epoch(data, 1)
    steps = len(data.links["train"]) // 50
    assert len(first) == len(second) == steps
    index = torch.cat([batch["index"] for batch in first])
    assert len(index.unique()) == len(index) == 50 * steps
    message = pairs_of(data.graph.T)
    for batch in first:
        assert torch.equal(batch["pos"], data.links["train"][batch["index"]])
        assert len(pairs_of(batch["neg"])) == len(batch["neg"]) == 50
        assert not pairs_of(batch["neg"]) & message
    assert not torch.equal(first[0]["neg"], second[0]["neg"])
    assert not torch.equal(first[0]["index"], second[0]["index"])


def test_an_epoch_goes_on_where_it_stopped() -> None:
    whole, rest = epoch(graph(), 2), epoch(graph(), 2, start=3)
    for a, b in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_graph_smaller_than_the_batch_is_one_batch() -> None:
    data = graph(batch_size=10_000)
    assert [len(batch["pos"]) for batch in epoch(data)] == [len(data.links["train"])]


def test_loaders_of_the_held_out_splits_hold_all_pairs() -> None:
    data = graph()
    data.trainer = Trainer()  # type: ignore[assignment]
    (batch,) = data.test_dataloader()
    assert set(batch) == data.columns
    assert torch.equal(batch["pos"], data.links["test"])
    assert torch.equal(batch["neg"], data.non_links["test"])


def test_seeds_differ_and_repeat() -> None:
    assert graph().fingerprint == graph().fingerprint != graph(1).fingerprint
    assert torch.equal(graph().non_links["val"], graph().non_links["val"])


def test_undirected_drops_doubles_and_loops() -> None:
    assert undirected(torch.tensor([[3, 1, 2, 0, 3], [1, 3, 2, 1, 1]])).T.tolist() == [[0, 1], [1, 3]]


# Sources ------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(("name", "nodes", "links"), [("NS", 1589, 2742), ("Yeast", 2375, 11693)])
def test_seal_graphs_have_their_sizes(data_root: Path, tmp_path: Path, name: Any, nodes: int, links: int) -> None:
    data = SEAL(name, num_nodes=nodes, in_features=2, root=str(data_root), cache=str(tmp_path), download=False)
    data.streams = Streams(0)
    data.setup()
    assert data.edges.shape == (2, links)
    assert not list(tmp_path.iterdir())


@pytest.mark.data
def test_cora_keeps_its_words_as_they_are(data_root: Path, tmp_path: Path) -> None:
    facts = {"num_nodes": 2708, "in_features": 1433, "num_classes": 7}
    data = PlanetoidLinks("Cora", root=str(data_root), cache=str(tmp_path), download=False, **facts)  # type: ignore[arg-type]
    data.streams = Streams(0)
    data.setup()
    assert data.edges.shape == (2, 5278)
    assert set(data.x.values().unique().tolist()) == {1.0}
    assert data.x.shape == (2708, 1433)


def seal(folder: Path, **changed: Any) -> SEAL:
    settings = {"num_nodes": 6, "in_features": 2, "root": str(folder), "cache": str(folder / "cache")}
    data = SEAL(**({"name": "NS", "download": False} | settings | changed))  # type: ignore[arg-type]
    data.streams = Streams(0)
    return data


def test_missing_and_damaged_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"NS\.mat not found; put the file there or set data\.download=true"):
        seal(tmp_path).setup()
    path = tmp_path / "seal_links" / "NS.mat"
    path.parent.mkdir()
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"NS\.mat is damaged"):
        seal(tmp_path).setup()
    scipy.io.savemat(path, {"net": sp.csc_matrix(np.ones((7, 7)) - np.eye(7))})
    with pytest.raises(UserError, match=r"data\.num_nodes is declared as 6, but the data has 7"):
        seal(tmp_path).setup()
    scipy.io.savemat(path, {"net": sp.csc_matrix(np.roll(np.eye(30), 1, 1) + np.roll(np.eye(30), -1, 1))})
    with pytest.raises(UserError, match=r"data\.in_features is declared as 3, but the data has 2"):
        seal(tmp_path, num_nodes=30, in_features=3).setup()
    scipy.io.savemat(path, {"net": sp.csc_matrix(np.diag(np.ones(6), 1) + np.diag(np.ones(6), -1))})
    with pytest.raises(UserError, match="6 links are too few"):
        seal(tmp_path, num_nodes=7).setup()


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicata.data.graph.seal.SOURCE", (tmp_path / "nowhere").as_uri())
    with pytest.raises(UserError, match=r"the download from .* failed .*; put the file there"):
        seal(tmp_path, download=True).setup()
    source = tmp_path / "source" / "MATLAB" / "data"
    source.mkdir(parents=True)
    scipy.io.savemat(source / "NS.mat", {"net": sp.csc_matrix(np.ones((6, 6)) - np.eye(6))})
    monkeypatch.setattr("replicata.data.graph.seal.SOURCE", (tmp_path / "source").as_uri())
    data = seal(tmp_path, download=True)
    with pytest.raises(UserError, match="pairs without an edge"):  # a complete graph: read, then refused
        data.setup()
    assert [path.name for path in (tmp_path / "cache" / "seal_links").iterdir()] == ["NS.mat"]


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"batch_size": 0}, "data.batch_size"),
        ({"val_share": 0.0}, "data.val_share"),
        ({"val_share": 0.6, "test_share": 0.5}, "data.test_share"),
        ({"observed": 0.0}, "data.observed"),
        ({"attached": 0}, "data.attached"),
        ({"triangles": 1.5}, "data.triangles"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        graph(**wrong)

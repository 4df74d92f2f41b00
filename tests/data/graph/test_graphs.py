"""Graph data modules: Planetoid files, sound or damaged, and the stochastic block model."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from replicata.data.graph.planetoid import PARTS, Planetoid
from replicata.data.graph.sbm import SBM, block_edges
from replicata.data.loaders import WholeBatch
from replicata.errors import UserError
from replicata.streams import Stream, Streams

CLASSES, WORDS = 2, 6
SIZES = {"x": 20 * CLASSES, "allx": 600, "tx": 1000}
FACTS = {"num_nodes": 1600, "in_features": WORDS, "num_classes": CLASSES}
REAL = {
    "Cora": {"num_nodes": 2708, "in_features": 1433, "num_classes": 7},
    "CiteSeer": {"num_nodes": 3327, "in_features": 3703, "num_classes": 6},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with small files of Cora's layout."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "data" / "Planetoid" / "Cora" / "raw"
    raw.mkdir(parents=True)
    nodes = FACTS["num_nodes"]
    features = (rng.random((nodes, WORDS)) < 0.5).astype(np.float32)
    features[0] = 0
    labels = np.eye(CLASSES, dtype=np.int32)[np.arange(nodes) % CLASSES]
    order = 600 + rng.permutation(1000)
    rows = {"x": np.arange(SIZES["x"]), "allx": np.arange(600), "tx": order}
    parts: dict[str, Any] = {name: sp.csr_matrix(features[index]) for name, index in rows.items()}
    parts |= {name.replace("x", "y"): labels[index] for name, index in rows.items()}
    graph: dict[int, list[int]] = {node: [] for node in range(nodes)}
    for a, b in rng.integers(nodes, size=(3000, 2)).tolist():
        graph[a].append(b)
        graph[b].append(a)
    parts["graph"] = graph
    for name, part in parts.items():
        (raw / f"ind.cora.{name}").write_bytes(pickle.dumps(part))
    (raw / "ind.cora.test.index").write_text("\n".join(str(node) for node in order) + "\n")
    return tmp_path / "data"


def cora(root: Path, cache: Path, **changed: Any) -> Planetoid:
    return Planetoid(**({"name": "Cora", "root": str(root), "cache": str(cache), "download": False} | FACTS | changed))


def test_files_are_read_in_place_and_parsed_once(root: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in root.rglob("*"))
    data = cora(root, tmp_path / "cache")
    data.setup()
    graph = data.graph
    assert graph["x"].layout == torch.sparse_csr
    sums = graph["x"].to_dense().sum(1)
    assert float(sums[0]) == 0
    torch.testing.assert_close(sums[sums > 0], torch.ones(int((sums > 0).sum())))
    assert torch.equal(graph["y"], torch.arange(1600) % CLASSES)
    assert [len(graph[split]) for split in ("train", "val", "test")] == [40, 500, 1000]
    assert sorted(graph["test"].tolist()) == list(range(600, 1600))
    source, target = graph["edges"]
    assert set(zip(source.tolist(), target.tolist(), strict=True)) == set(
        zip(target.tolist(), source.tolist(), strict=True)
    )
    assert sorted(path.name for path in root.rglob("*")) == before
    (parsed,) = (tmp_path / "cache" / "Planetoid" / "Cora").iterdir()

    again = cora(root, tmp_path / "cache")
    again.setup()
    assert again.fingerprint == data.fingerprint
    parsed.write_bytes(b"damaged")  # a bad file in the cache is written anew
    third = cora(root, tmp_path / "cache")
    third.setup()
    assert third.fingerprint == data.fingerprint
    assert torch.load(parsed, weights_only=True)["y"].shape == (1600,)


def truncate(raw: Path) -> None:
    path = raw / "ind.cora.allx"
    path.write_bytes(path.read_bytes()[:200])


def reshape(raw: Path) -> None:
    (raw / "ind.cora.tx").write_bytes(pickle.dumps(sp.csr_matrix(np.ones((1000, WORDS + 1), dtype=np.float32))))


def shorten(raw: Path) -> None:
    (raw / "ind.cora.y").write_bytes(pickle.dumps(np.eye(CLASSES, dtype=np.int32)[[0, 1, 0]]))


def scramble(raw: Path) -> None:
    (raw / "ind.cora.test.index").write_text("not\na\nnumber\n")


def detach(raw: Path) -> None:
    (raw / "ind.cora.graph").write_bytes(pickle.dumps({0: [5000], 5000: [0]}))


def remove(raw: Path) -> None:
    (raw / "ind.cora.graph").unlink()


@pytest.mark.parametrize("harm", [truncate, reshape, shorten, scramble, detach, remove])
def test_harmed_files_are_one_line_and_leave_nothing_behind(root: Path, tmp_path: Path, harm: Any) -> None:
    raw = root / "Planetoid" / "Cora" / "raw"
    harm(raw)
    with pytest.raises(UserError, match="Cora") as refusal:
        cora(root, tmp_path / "cache").setup()
    assert "\n" not in str(refusal.value)
    assert str(raw) in str(refusal.value)
    assert not list((tmp_path / "cache").rglob("*.*"))


@pytest.mark.parametrize(("fact", "value"), [("num_nodes", 1601), ("in_features", 5), ("num_classes", 3)])
def test_facts_are_verified(root: Path, tmp_path: Path, fact: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"data\.{fact} is declared as {value}"):
        cora(root, tmp_path / "cache", **{fact: value}).setup()
    assert not list((tmp_path / "cache").rglob("*.*"))
    cora(root, tmp_path / "cache").setup()
    with pytest.raises(UserError, match=rf"data\.{fact} is declared as {value}"):  # from the cache as well
        cora(root, tmp_path / "cache", **{fact: value}).setup()


def test_missing_files_are_downloaded_into_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_geometric.datasets import Planetoid as Source

    real = root / "Planetoid" / "Cora" / "raw"

    def fetch(self: Source) -> None:
        shutil.copytree(real, self.raw_dir, dirs_exist_ok=True)

    monkeypatch.setattr(Source, "download", fetch)
    data = cora(tmp_path / "nowhere", tmp_path / "cache", download=True)
    data.setup()
    assert len(list((tmp_path / "cache" / "Planetoid" / "Cora" / "raw").iterdir())) == len(PARTS)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["Planetoid"]
    assert not (tmp_path / "nowhere").exists()
    offline = cora(tmp_path / "nowhere", tmp_path / "cache")
    offline.setup()
    assert offline.fingerprint == data.fingerprint


def test_a_failed_download_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_geometric.datasets import Planetoid as Source

    def fetch(self: Source) -> None:
        Path(self.raw_dir, "ind.cora.x").write_bytes(b"half")
        raise OSError("no network\nsecond line")

    monkeypatch.setattr(Source, "download", fetch)
    with pytest.raises(UserError, match="no network") as refusal:
        cora(tmp_path / "nowhere", tmp_path / "cache", download=True).setup()
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "cache").iterdir())


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.name must be one of Cora, CiteSeer, PubMed"):
        Planetoid(name="Pubmed", root=".", cache=".", **FACTS)  # type: ignore[arg-type]


@pytest.mark.data
@pytest.mark.parametrize(("name", "counts"), [("Cora", (10556, 0, 0)), ("CiteSeer", (9104, 15, 48))])
def test_real_graphs(data_root: Path, tmp_path: Path, name: Any, counts: tuple[int, int, int]) -> None:
    edges, wordless, isolated = counts
    data = Planetoid(name=name, root=str(data_root), cache=str(tmp_path), download=False, **REAL[name])
    data.setup()
    graph = data.graph
    assert graph["edges"].shape == (2, edges)
    assert [len(graph[split]) for split in ("train", "val", "test")] == [20 * data.num_classes, 500, 1000]
    assert torch.bincount(graph["y"][graph["train"]]).tolist() == [20] * data.num_classes
    empty = graph["x"].to_dense().sum(1) == 0  # these and the isolated ones are kept as nodes
    assert int(empty.sum()) == wordless
    assert int((torch.bincount(graph["edges"][0], minlength=data.num_nodes) == 0).sum()) == isolated
    assert not any(empty[graph[split]].any() for split in ("train", "val", "test"))


# The stochastic block model -----------------------------------------------------------------


def sbm(seed: int = 0, **changed: Any) -> SBM:
    facts = {"num_nodes": 400, "in_features": 64, "num_classes": 4, "root": ".", "cache": "."}
    data = SBM(**(facts | changed))
    data.streams = Streams(seed)
    return data


def test_sbm_has_its_probabilities_and_is_undirected() -> None:
    y = torch.arange(1200) % 4
    edges = block_edges(Stream(0), y, p_in=0.05, p_out=0.005)
    adjacency = torch.zeros(1200, 1200)
    adjacency[edges[0], edges[1]] = 1
    assert torch.equal(adjacency, adjacency.T)
    assert not adjacency.diagonal().any()
    same = y[:, None] == y[None]
    assert abs(float(adjacency[same].mean()) - 0.05 * 299 / 300) < 0.002
    assert abs(float(adjacency[~same].mean()) - 0.005) < 0.0005


def test_sbm_is_a_function_of_the_seed() -> None:
    one, same, other = sbm(), sbm(), sbm(seed=1)
    for data in (one, same, other):
        data.setup()
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert torch.bincount(one.graph["y"][one.graph["train"]]).tolist() == [20] * 4
    everything = torch.cat([one.graph[split] for split in ("train", "val", "test")])
    assert sorted(everything.tolist()) == list(range(400))


def test_words_lean_towards_the_class() -> None:
    data = sbm(lean=1.0)
    data.setup()
    words = data.graph["x"].to_dense()
    own = words.view(400, 4, 16).sum(2).argmax(1)
    assert torch.equal(own, data.graph["y"])


@pytest.mark.parametrize(
    ("wrong", "key"), [({"p_in": 1.5}, "p_in"), ({"lean": -0.1}, "lean"), ({"n_val": 320}, "n_val")]
)
def test_sbm_refuses_wrong_values_by_name(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.{key}"):
        sbm(**wrong)


def test_whole_batch_resumes_after_the_epoch_it_was_saved_in() -> None:
    loader = WholeBatch({"index": torch.arange(3)})
    assert len(list(loader)) == len(loader) == 1
    state = loader.state_dict()
    fresh = WholeBatch(loader.batch)
    fresh.load_state_dict(state)
    assert list(fresh) == []  # that epoch was complete
    fresh.sampler.set_epoch(1)
    (batch,) = fresh
    assert batch["index"] is loader.batch["index"]

"""Image sets: what is read, and what is said when it cannot be."""

from __future__ import annotations

import gzip
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from replicata.data.vision.flowers import Flowers102
from replicata.data.vision.images import CIFAR10, MNIST, Digits, FashionMNIST, Images, publish
from replicata.errors import UserError
from replicata.streams import Streams

GRAY = {"in_shape": [1, 28, 28], "in_features": 784, "num_classes": 10}
COLOUR = {"in_shape": [3, 32, 32], "in_features": 3072, "num_classes": 10}
NAMES = [name for pair in MNIST.files.values() for name in pair]


def ready(data: Images) -> Images:
    data.streams = Streams(0)
    data.setup("fit")
    return data


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny MNIST of gzipped idx files: 40 + 20 images."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for (images, labels), count in zip(MNIST.files.values(), (40, 20), strict=True):
        pixels = np.arange(count * 784).reshape(count, 28, 28) % 256
        (raw / f"{images}.gz").write_bytes(gzip.compress(idx(pixels)))
        (raw / f"{labels}.gz").write_bytes(gzip.compress(idx(np.arange(count) % 10)))
    return tmp_path / "data"


def mnist(root: Path, **settings: Any) -> MNIST:
    cache = root.parent / "cache"
    return MNIST(**({"root": str(root), "cache": str(cache), "download": False, "n_val": 10} | GRAY | settings))


# Digits -------------------------------------------------------------------------------------


def test_digits_need_no_files() -> None:
    facts = {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10}
    data = ready(Digits(root="", cache="", n_val=400, n_test=497, **facts))
    assert {name: len(split["y"]) for name, split in data.splits.items()} == {"train": 900, "val": 400, "test": 497}
    x = torch.cat([split["x"] for split in data.splits.values()])
    assert x.shape == (1797, 1, 8, 8)
    assert (x.min(), x.max()) == (0, 1)


@pytest.mark.parametrize(("fact", "declared"), [("in_shape", [1, 9, 8]), ("in_features", 63), ("num_classes", 11)])
def test_wrong_facts_are_refused(fact: str, declared: Any) -> None:
    facts = {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10}
    with pytest.raises(UserError, match=f"data.{fact} is declared as"):
        ready(Digits(root="", cache="", n_val=400, n_test=497, **(facts | {fact: declared})))


# idx files ----------------------------------------------------------------------------------


def test_gzipped_files_are_unpacked_into_the_cache_once(root: Path) -> None:
    data = ready(mnist(root))
    assert data.splits["train"]["x"].dtype == torch.uint8
    assert {name: len(split["y"]) for name, split in data.splits.items()} == {"train": 30, "val": 10, "test": 20}
    assert torch.equal(data.splits["test"]["y"], torch.arange(20) % 10)
    batch = data.transform({"x": data.splits["test"]["x"][:2]})
    assert torch.equal(batch["x"].flatten()[:300], (torch.arange(300) % 256) / 255)
    assert left_in(root.parent / "cache") == sorted(f"MNIST/raw/{name}" for name in NAMES)
    again = mnist(root.parent / "gone", cache=str(root.parent / "cache"))
    assert ready(again).fingerprint == data.fingerprint


def test_unpacked_files_are_read_where_they_are(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    for name in NAMES:
        (raw / name).write_bytes(gzip.decompress((raw / f"{name}.gz").read_bytes()))
        (raw / f"{name}.gz").unlink()
    ready(mnist(root))
    assert not (root.parent / "cache").exists()


DAMAGES = {
    "cut": lambda content: content[:-9],
    "other": lambda content: b"not gzip",
    "cut_inside": lambda content: gzip.compress(gzip.decompress(content)[:-5]),
    "no_header": lambda content: gzip.compress(bytes([0, 0, 8, 3, 1])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archives_are_refused_and_nothing_is_written(root: Path, damage: str) -> None:
    path = root / "MNIST" / "raw" / f"{NAMES[2]}.gz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is damaged or truncated") as caught:
        ready(mnist(root))
    assert "\n" not in str(caught.value)
    assert not (root.parent / "cache").exists()


def test_damaged_file_in_the_cache_is_refused(root: Path) -> None:
    ready(mnist(root))
    path = root.parent / "cache" / "MNIST" / "raw" / NAMES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="train-images-idx3-ubyte is damaged or truncated"):
        ready(mnist(root))


def test_images_and_labels_must_match(root: Path) -> None:
    (root / "MNIST" / "raw" / f"{NAMES[1]}.gz").write_bytes(gzip.compress(idx(np.zeros(39))))
    with pytest.raises(UserError, match="40 images and 39 labels"):
        ready(mnist(root))
    assert not (root.parent / "cache").exists()
    (root / "MNIST" / "raw" / f"{NAMES[1]}.gz").write_bytes((root / "MNIST" / "raw" / f"{NAMES[0]}.gz").read_bytes())
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is damaged"):
        ready(mnist(root))


def test_missing_files_without_download(root: Path) -> None:
    (root / "MNIST" / "raw" / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(UserError, match=r"MNIST \(t10k-labels-idx1-ubyte.gz\) is not under .*data.download=true"):
        ready(mnist(root))
    assert not (root.parent / "cache").exists()


def test_download_arrives_whole_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, empty = root / "MNIST" / "raw", root.parent / "empty"

    def fetch(data: MNIST, folder: Path, stop: bool) -> None:
        (folder / "MNIST" / "raw").mkdir(parents=True)
        for name in NAMES:
            (folder / "MNIST" / "raw" / name).write_bytes(gzip.decompress((raw / f"{name}.gz").read_bytes()))
            if stop:
                raise OSError("connection lost")

    monkeypatch.setattr(MNIST, "_fetch", lambda data, folder: fetch(data, folder, stop=True))
    with pytest.raises(UserError, match=r"cannot be downloaded \(connection lost\)"):
        ready(mnist(empty, download=True))
    assert list((root.parent / "cache").iterdir()) == []
    monkeypatch.setattr(MNIST, "_fetch", lambda data, folder: fetch(data, folder, stop=False))
    assert len(ready(mnist(empty, download=True)).splits["test"]["y"]) == 20
    assert left_in(root.parent / "cache") == sorted(f"MNIST/raw/{name}" for name in NAMES)


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_download_is_torchvisions(kind: type[MNIST], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    called = {}
    monkeypatch.setattr(datasets, kind.folder, lambda **arguments: called.update(arguments))
    kind(root="", cache="", **GRAY)._fetch(tmp_path)
    assert called == {"root": str(tmp_path), "download": True}


def test_a_faster_process_wins(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    publish(tmp_path / "mine", tmp_path / "theirs")
    assert (tmp_path / "theirs" / "file").read_text() == "theirs"
    with pytest.raises(OSError, match="absent"):
        publish(tmp_path / "absent", tmp_path / "new")


# CIFAR-10 -----------------------------------------------------------------------------------


def cifar(root: Path, **settings: Any) -> CIFAR10:
    cache = root.parent / "cache"
    return CIFAR10(**({"root": str(root), "cache": str(cache), "download": False, "n_val": 10} | COLOUR | settings))


def parquet(path: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rows = []
    for row in range(count):
        file = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), row, np.uint8)).save(file, "JPEG", quality=95)
        rows.append({"img": {"bytes": file.getvalue(), "path": None}, "label": row % 10})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_reencoded_images_are_used_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "data"
    for split, count in (("train", 30), ("test", 20)):
        parquet(root / "cifar10_jpg" / f"{split}.parquet", count)
    with caplog.at_level(logging.WARNING):
        data = ready(cifar(root))
    assert "re-encoded as JPEG" in caplog.text
    assert data.notes == {"source": "re-encoded JPEG"}
    assert (data.splits["test"]["x"].float().mean((1, 2, 3)) - torch.arange(20)).abs().max() <= 1
    (kept,) = (tmp_path / "cache" / "cifar10_jpg").iterdir()
    assert ready(cifar(root)).fingerprint == data.fingerprint
    parquet(root / "cifar10_jpg" / "test.parquet", 21)  # other files are decoded anew
    assert len(ready(cifar(root)).splits["test"]["y"]) == 21
    assert kept in (others := set((tmp_path / "cache" / "cifar10_jpg").iterdir()))
    assert len(others) == 2


@pytest.mark.parametrize("damage", ["truncated", "image", "absent"])
def test_damaged_parquet_is_refused_and_nothing_is_written(tmp_path: Path, damage: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, cache = tmp_path / "data", tmp_path / "cache"
    for split in ("train", "test"):
        parquet(root / "cifar10_jpg" / f"{split}.parquet", 20)
    path = root / "cifar10_jpg" / "test.parquet"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "image":
        rows = pq.read_table(path).to_pylist()
        rows[7]["img"]["bytes"] = b"no image"
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.unlink()
    named = {"truncated": "damaged or truncated", "image": "row 7 is no 32x32", "absent": "is missing"}[damage]
    with pytest.raises(UserError, match=rf"test\.parquet.*{named}|{named}"):
        ready(cifar(root))
    assert left_in(cache) == []


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a tiny CIFAR-10 in the official layout, whose checksums torchvision is told not to compare."""
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})

    def write(root: Path) -> None:
        folder = root / CIFAR10.official
        folder.mkdir(parents=True)
        for name, count in (("data_batch_1", 30), ("test_batch", 20)):
            pixels = np.repeat(np.arange(count, dtype=np.uint8)[:, None], 3072, 1)
            (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [row % 10 for row in range(count)]}))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))

    return write


def test_official_set_comes_first(tmp_path: Path, official: Any) -> None:
    root = tmp_path / "data"
    official(root)
    for split in ("train", "test"):
        parquet(root / "cifar10_jpg" / f"{split}.parquet", 20)
    data = ready(cifar(root))
    assert data.notes == {}
    assert torch.equal(data.splits["test"]["x"][:, 2, 5, 6], torch.arange(20, dtype=torch.uint8))
    (root / CIFAR10.official / "test_batch").unlink()
    with pytest.raises(UserError, match="cifar-10-batches-py is incomplete or damaged"):
        ready(cifar(root))


def test_official_archive_is_unpacked_into_the_cache(
    tmp_path: Path, official: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    import tarfile

    from torchvision import datasets

    official(tmp_path / "made")
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "made" / CIFAR10.official, CIFAR10.official)
    with pytest.raises(UserError, match=r"cifar-10-python.tar.gz is damaged or truncated"):
        ready(cifar(tmp_path / "data"))
    assert left_in(tmp_path / "cache") == []
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(ready(cifar(tmp_path / "data")).splits["test"]["y"]) == 20
    assert {path.split("/")[0] for path in left_in(tmp_path / "cache")} == {CIFAR10.official}


def test_missing_cifar_without_download(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CIFAR-10 .* is not under .*data.download=true"):
        ready(cifar(tmp_path))


# Flowers-102 --------------------------------------------------------------------------------


def test_flowers_are_cut_to_squares_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image
    from scipy.io import savemat
    from torchvision import datasets

    files = {key: (name, None) for key, (name, _) in datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)
    folder = tmp_path / "data" / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, 7):
        Image.fromarray(np.full((30, 40, 3), 20 * number, np.uint8)).save(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]])})
    savemat(folder / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})
    facts = {"in_shape": [3, 14, 14], "in_features": 588, "num_classes": 2, "size": 14}
    settings = {"root": str(tmp_path / "data"), "cache": str(tmp_path / "cache"), "download": False}

    (folder / "jpg" / "image_00004.jpg").rename(folder / "kept.jpg")
    with pytest.raises(UserError, match="a val image cannot be read"):
        ready(Flowers102(**settings, **facts))
    assert not (tmp_path / "cache").exists()
    (folder / "kept.jpg").rename(folder / "jpg" / "image_00004.jpg")
    data = ready(Flowers102(**settings, **facts))
    assert data.splits["val"]["y"].tolist() == [0, 1]
    assert (data.splits["test"]["x"].float().mean((1, 2, 3)) - torch.tensor([100, 120])).abs().max() <= 2
    (folder / "setid.mat").unlink()
    assert ready(Flowers102(**settings, **facts)).fingerprint == data.fingerprint
    with pytest.raises(UserError, match="flowers-102 is incomplete or damaged"):
        ready(Flowers102(**(settings | {"cache": str(tmp_path / "other")}), **facts))
    with pytest.raises(ValueError, match=r"data\.size"):
        Flowers102(**settings, **(facts | {"size": 0}))


# The real files -----------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_real_idx_files(kind: type[MNIST], data_root: Path, tmp_path: Path) -> None:
    data = ready(kind(root=str(data_root), cache=str(tmp_path), download=False, n_val=5000, **GRAY))
    assert {name: len(split["y"]) for name, split in data.splits.items()} == {
        "train": 55000,
        "val": 5000,
        "test": 10000,
    }
    if kind is FashionMNIST:
        assert torch.equal(torch.bincount(data.splits["test"]["y"]), torch.full((10,), 1000))


@pytest.mark.data
@pytest.mark.slow
def test_real_reencoded_cifar(data_root: Path, tmp_path: Path) -> None:
    data = ready(CIFAR10(root=str(data_root), cache=str(tmp_path), download=False, n_val=5000, **COLOUR))
    assert {name: len(split["y"]) for name, split in data.splits.items()} == {
        "train": 45000,
        "val": 5000,
        "test": 10000,
    }
    assert torch.equal(torch.bincount(data.splits["test"]["y"]), torch.full((10,), 1000))

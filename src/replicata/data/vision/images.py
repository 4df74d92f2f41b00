"""Image classification sets that fit in memory: digits, MNIST, Fashion-MNIST, CIFAR-10."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.data.module import Split, TensorDataModule
from replicata.errors import UserError

log = logging.getLogger(__name__)


class Images(TensorDataModule):
    """Images with one label each.

    Files are looked for under ``root`` and under ``cache``; what is unpacked or downloaded goes to ``cache``,
    whole or not at all.

    Shapes:
        - ``x``: :math:`(B, C, H, W)`, floats in [0, 1] (kept as bytes until a batch is cut); ``y``: :math:`(B)`.

    Args:
        in_shape, in_features, num_classes: Declared facts: :math:`[C, H, W]`, :math:`CHW` and the classes.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.

    Attributes:
        notes: What the record should say about the data beside its fingerprint.
    """

    def __init__(self, in_shape: Sequence[int], in_features: int, num_classes: int, **loader: Any) -> None:
        super().__init__(**loader)
        self.root, self.cache = self.root.expanduser(), self.cache.expanduser()
        self.in_shape, self.in_features, self.num_classes = list(in_shape), in_features, num_classes
        self.notes: dict[str, str] = {}

    def facts(self) -> dict[str, Any]:
        shape = self.splits["train"]["x"].shape[1:]
        classes = 1 + max(int(split["y"].max()) for split in self.splits.values())
        return {"in_shape": list(shape), "in_features": shape.numel(), "num_classes": classes}

    def transform(self, batch: Batch) -> Batch:
        if batch["x"].dtype == torch.uint8:
            batch["x"] = batch["x"].float() / 255
        return batch

    def _download(self, fetch: Callable[[Path], object], wanted: Sequence[str], source: str) -> None:
        """Fetch into a folder of its own, then move what is wanted into the cache.

        Args:
            fetch: Downloads into the folder it is given.
            wanted: Paths that it leaves there, relative; they are put at the same place in the cache.
            source: What is downloaded, for the message.
        """
        if not self.download:
            raise UserError(f"{source} is not under {self.root}: put it there or set data.download=true")
        with staging(self.cache) as folder:
            try:
                fetch(folder)
            except (RuntimeError, OSError, EOFError, zlib.error) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise UserError(f"{source} cannot be downloaded ({reason}): put it under {self.root}") from error
            for name in wanted:
                publish(folder / name, self.cache / name)

    def _keep(self, splits: dict[str, Split], path: Path) -> None:
        """Save decoded splits in the cache, under a name that stands for their content."""
        with staging(self.cache) as folder:
            torch.save(splits, folder / path.name)
            publish(folder / path.name, path)


class Digits(Images):
    """The 1,797 digits of 8x8 that come with scikit-learn."""

    def load(self) -> dict[str, Split]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images.astype(np.float32) / 16)
        return {"train": {"x": images[:, None], "y": torch.from_numpy(digits.target).long()}}


class MNIST(Images):
    """MNIST, from idx files under their official names, plain or gzipped, in ``MNIST/raw``."""

    folder: ClassVar[str] = "MNIST"
    files: ClassVar[dict[str, tuple[str, str]]] = {
        "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    }

    def prepare_data(self) -> None:
        """Unpack or download what is missing; the first process of a machine does it before the others read."""
        names = [name for pair in self.files.values() for name in pair]
        missing = [name for name in names if self._find(name) is None]
        packed = [self.root / self.folder / "raw" / f"{name}.gz" for name in missing]
        if absent := [path for path in packed if not path.exists()]:
            wanted = [f"{self.folder}/raw/{name}" for name in names]
            self._download(self._fetch, wanted, f"{self.folder} ({absent[0].name})")
            return
        contents = {name: _gunzip(path) for name, path in zip(missing, packed, strict=True)}
        self._check(contents, self.root, ".gz")
        for name, content in contents.items():
            write_whole(self.cache / self.folder / "raw" / name, content)

    def load(self) -> dict[str, Split]:
        from torchvision.datasets import mnist

        self.prepare_data()
        splits = {}
        for split, names in self.files.items():
            paths = [path for name in names if (path := self._find(name)) is not None]
            self._check({path.name: path.read_bytes() for path in paths}, paths[0].parents[2])
            images, labels = mnist.read_image_file(str(paths[0])), mnist.read_label_file(str(paths[1]))
            splits[split] = {"x": images[:, None], "y": labels}
        return splits

    def _check(self, contents: dict[str, bytes], place: Path, suffix: str = "") -> None:
        """Refuse what is not whole idx data, or images and labels that differ in number."""
        folder = place / self.folder / "raw"
        rows = {
            name: _idx_rows(content, folder / f"{name}{suffix}", axes=int(name[-7]))
            for name, content in contents.items()
        }
        for images, labels in self.files.values():
            if images in rows and labels in rows and rows[images] != rows[labels]:
                count = f"{rows[images]} images and {rows[labels]} labels"
                raise UserError(f"{folder} holds {count} in {images} and {labels}: replace both")

    def _find(self, name: str) -> Path | None:
        """An unpacked file: the user's own, else the one in the cache."""
        places = (place / self.folder / "raw" / name for place in (self.root, self.cache))
        return next((path for path in places if path.exists()), None)

    def _fetch(self, folder: Path) -> None:
        from torchvision import datasets

        getattr(datasets, self.folder)(root=str(folder), download=True)


class FashionMNIST(MNIST):
    """Fashion-MNIST, a drop-in for MNIST, in ``FashionMNIST/raw``."""

    folder = "FashionMNIST"


class CIFAR10(Images):
    """CIFAR-10, from the official ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz``.

    Where neither is at hand but ``cifar10_jpg/{train,test}.parquet`` is (columns ``img``, ``label``), that is
    taken: the same images **re-encoded as JPEG**, so results differ from those on the official set. The log
    and the run's record say so.
    """

    official: ClassVar[str] = "cifar-10-batches-py"

    def load(self) -> dict[str, Split]:
        self.prepare_data()
        folder = self._unpacked()
        if folder is not None:
            return self._read_official(folder)
        log.warning(
            "CIFAR-10: the images re-encoded as JPEG are used (%s), not the official set", self._parquet("train")
        )
        self.notes["source"] = "re-encoded JPEG"
        return torch.load(self._decoded(), weights_only=True)

    def prepare_data(self) -> None:
        """Unpack, decode or download what is missing; the first process of a machine does it before the others read."""
        if self._unpacked() is not None:
            return
        archive = self.root / "cifar-10-python.tar.gz"
        if archive.exists():
            self._unpack(archive)
        elif not self._parquet("train").exists():
            self._download(self._fetch, [self.official], f"CIFAR-10 ({self.official} or {archive.name})")
        elif not self._decoded().exists():
            self._decode()

    def _unpacked(self) -> Path | None:
        return next((place for place in (self.root, self.cache) if (place / self.official).is_dir()), None)

    def _read_official(self, folder: Path) -> dict[str, Split]:
        from torchvision import datasets

        splits = {}
        for split in ("train", "test"):
            try:
                found = datasets.CIFAR10(root=str(folder), train=split == "train")
            except RuntimeError:
                place = folder / self.official
                raise UserError(
                    f"{place} is incomplete or damaged: replace it, or remove it to fetch it anew"
                ) from None
            images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
            splits[split] = {"x": images, "y": torch.tensor(found.targets)}
        return splits

    def _unpack(self, archive: Path) -> None:
        from torchvision.datasets import CIFAR10 as Official
        from torchvision.datasets.utils import check_integrity, extract_archive

        if not check_integrity(str(archive), Official.tgz_md5):
            raise UserError(f"{archive} is damaged or truncated: replace it, or remove it and set data.download=true")
        with staging(self.cache) as folder:
            extract_archive(str(archive), str(folder))
            publish(folder / self.official, self.cache / self.official)

    def _fetch(self, folder: Path) -> None:
        from torchvision import datasets

        datasets.CIFAR10(root=str(folder), download=True)

    # The re-encoded set ----------------------------------------------------------------------

    def _parquet(self, split: str) -> Path:
        return self.root / "cifar10_jpg" / f"{split}.parquet"

    def _decoded(self) -> Path:
        """Where the decoded images are kept, by the content of the files they come from."""
        digest = hashlib.sha256()
        for split in ("train", "test"):
            path = self._parquet(split)
            if not path.exists():
                raise UserError(f"{path} is missing: put it there, or the official {self.official} under {self.root}")
            digest.update(path.read_bytes())
        return self.cache / "cifar10_jpg" / f"{digest.hexdigest()[:16]}.pt"

    def _decode(self) -> None:
        splits = {split: _decode_parquet(self._parquet(split)) for split in ("train", "test")}
        self._keep(splits, self._decoded())


# Files -----------------------------------------------------------------------------------------


@contextmanager
def staging(cache: Path) -> Iterator[Path]:
    """A folder inside the cache that is gone afterwards, whatever happens."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=cache, prefix=".staging-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """Move a finished file or folder into place; another process that was faster wins."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError:
        if not target.exists():
            raise


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename, so that a file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error.strerror}): free some space or set paths.cache") from error


def _gunzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or truncated ({error}): replace it, or remove it to download it") from None


def _idx_rows(content: bytes, path: Path, axes: int) -> int:
    """Rows of idx data of bytes; refuses what has other axes or another length than its header promises."""
    header = 4 + 4 * axes
    if content[:4] == bytes([0, 0, 8, axes]) and len(content) >= header:
        shape = np.frombuffer(content[4:header], ">i4")
        if len(content) == header + int(np.prod(shape, dtype=np.int64)):
            return int(shape[0])
    raise UserError(f"{path} is damaged or truncated (not whole idx data): replace it or remove it")


def _decode_parquet(path: Path) -> dict[str, Tensor]:
    """Images :math:`(N, 3, 32, 32)` and labels of one parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    try:
        table = pq.read_table(path, columns=["img", "label"])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or truncated ({reason}): replace it") from None
    images = np.empty((table.num_rows, 32, 32, 3), np.uint8)
    for row, image in enumerate(table.column("img").to_pylist()):
        try:
            images[row] = np.asarray(Image.open(io.BytesIO(image["bytes"])))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} row {row} is no 32x32 colour image ({error}): replace the file") from None
    labels = torch.tensor(table.column("label").to_pylist())
    return {"x": torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), "y": labels}

"""Image sets made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from replicata.data.vision.images import Digits
from replicata.data.vision.pooled import PooledImages
from replicata.errors import UserError
from replicata.streams import Streams

FACTS = {"in_shape": [1, 4, 4], "in_features": 16, "num_classes": 10, "root": "", "cache": ""}
ROWS = {"train": [0, 100], "val": [900, 1000], "test": [1000, 1200]}


def ready(seed: int = 0, **settings: Any) -> PooledImages:
    data = PooledImages(**({"source": "digits", "pool": 2} | FACTS | settings))
    data.streams = Streams(seed)
    data.prepare_data()
    data.setup()
    return data


def test_pixels_are_averaged_and_standardised() -> None:
    whole = Digits(**FACTS).load()["train"]
    data = ready(rows=ROWS, mean=[0.3], std=[0.25])
    images = whole["x"][900:1000]
    expected = (
        images[:, :, 0::2, 0::2] + images[:, :, 0::2, 1::2] + images[:, :, 1::2, 0::2] + images[:, :, 1::2, 1::2]
    ) / 4
    torch.testing.assert_close(data.splits["val"]["x"], (expected - 0.3) / 0.25)
    assert torch.equal(data.splits["val"]["y"], whole["y"][900:1000])
    plain = ready(rows=ROWS)
    torch.testing.assert_close(plain.splits["val"]["x"], expected)


def test_fixed_rows_are_the_same_for_all_seeds_and_others_are_drawn() -> None:
    one, two = ready(0, rows=ROWS), ready(1, rows=ROWS)
    assert {name: len(split["y"]) for name, split in one.splits.items()} == {"train": 100, "val": 100, "test": 200}
    assert torch.equal(one.splits["train"]["x"], two.splits["train"]["x"])
    assert one.fingerprint == two.fingerprint
    one, two = (ready(seed, n_train=50, n_val=100, n_test=100) for seed in (0, 1))
    assert not torch.equal(one.splits["train"]["x"], two.splits["train"]["x"])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"source": "cifar"}, "data.source"),
        ({"pool": 0}, "data.pool"),
        ({"mean": [0.5]}, r"data\.(mean|std) must be"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "data.mean must be one number a channel"),
        ({"rows": ROWS | {"valid": [0, 1]}}, "data.rows.valid"),
        ({"rows": ROWS | {"test": [1000, 1798]}}, r"data.rows.test=\[1000, 1798\] does not fit"),
        ({"rows": ROWS, "in_shape": [1, 8, 8]}, "data.in_shape"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, UserError), match=named):
        ready(**({"rows": ROWS} | wrong))


@pytest.mark.data
def test_bytes_become_numbers_between_0_and_1(data_root: Path, tmp_path: Path) -> None:
    facts = {"in_shape": [1, 14, 14], "in_features": 196, "root": str(data_root), "cache": str(tmp_path)}
    data = ready(source="fashion_mnist", rows={"train": [0, 200], "val": [200, 300]}, download=False, **facts)
    x = data.splits["train"]["x"]
    assert x.dtype == torch.float32
    assert 0 <= x.min() < x.max() <= 1
    assert len(data.splits["test"]["y"]) == 10000

"""Linear maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from replicata.data.synthetic.linear_map import LinearMap
from replicata.errors import UserError
from replicata.streams import Streams


def linear_map(seed: int = 0, **changed: Any) -> LinearMap:
    data = LinearMap(root="", cache="", batch_size=9, **changed)
    data.streams = Streams(seed)
    return data


def test_map_is_seen_whole_and_has_its_rank() -> None:
    data = linear_map()
    data.setup()
    train = data.splits["train"]
    assert torch.equal(train["x"], torch.eye(9))
    assert train["y"].shape == (9, 6)
    assert int(torch.linalg.matrix_rank(train["y"])) == 3
    for split in ("val", "test"):
        assert torch.equal(data.splits[split]["y"], train["y"])
    other = linear_map(seed=1)
    other.setup()
    assert not torch.equal(other.splits["train"]["y"], train["y"])


def test_identity_has_points_of_its_subspace() -> None:
    data = linear_map(task="identity", in_features=10, out_features=10)
    data.setup()
    assert data.splits["train"]["x"].shape == (3, 10)
    assert torch.equal(data.splits["train"]["x"], data.splits["train"]["y"])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"task": "maps"}, "data.task"), ({"rank": 7}, "data.rank"), ({"task": "identity"}, "data.out_features")],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        linear_map(**wrong)


def test_a_wrong_fact_is_refused() -> None:
    data = linear_map()
    data.rank = 4
    data.load = lambda: {s: {"x": torch.eye(9), "y": torch.ones(9, 6)} for s in ("train", "val", "test")}
    with pytest.raises(UserError, match=r"data\.rank is declared as 4, but the data has 1"):
        data.setup()

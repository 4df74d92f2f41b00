"""The sphere: geometry, noise and known Bayes error."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from replicata.data.synthetic.sphere import Sphere
from replicata.errors import UserError
from replicata.streams import Streams


def make(seed: int = 0, **settings: Any) -> Sphere:
    data = Sphere(root="", cache="", **settings)
    data.streams = Streams(seed)
    data.setup()
    return data


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_points_are_unit_vectors_of_the_positive_part(dim: int) -> None:
    data = make(dim=dim, in_features=dim + 1)
    x = data.splits["train"]["x"].double()
    assert x.shape == (1600, dim + 1)
    assert float(x.min()) >= 0
    torch.testing.assert_close(x.norm(dim=1), torch.ones(1600, dtype=torch.float64), rtol=0, atol=1e-6)


def test_classes_before_the_noise_follow_the_task() -> None:
    half = make(n_test=20000).splits["test"]
    assert torch.equal(half["clean"] == 1, half["x"][:, 0] > half["x"][:, 1])
    assert abs(float(half["clean"].double().mean()) - 0.5) < 0.02
    cap = make(task="cap", n_test=20000).splits["test"]
    angle = (cap["x"].double().sum(1) / 3**0.5).clamp(max=1).acos()
    clear = (angle - 0.30).abs() > 1e-5
    assert torch.equal((cap["clean"] == 1)[clear], (angle < 0.30)[clear])
    assert abs(float(cap["clean"].double().mean()) - 0.179) < 0.01  # area of the cap over that of the octant


def test_bayes_classifier_errs_at_the_declared_rate_in_every_split() -> None:
    data = make(n_train=20000, n_val=20000, n_test=20000)
    for split in data.splits.values():
        assert abs(float((split["y"] != split["clean"]).double().mean()) - data.bayes_error) < 0.01


def test_smaller_training_sets_are_nested_and_share_the_test_set() -> None:
    small, large = make(n_train=100), make(n_train=1600)
    for name in ("x", "y", "clean"):
        assert torch.equal(small.splits["train"][name], large.splits["train"][name][:100])
        assert torch.equal(small.splits["test"][name], large.splits["test"][name])
    assert not torch.equal(make(1).splits["train"]["x"], large.splits["train"]["x"])


def test_wrong_values_are_refused_by_name() -> None:
    for settings, message in (
        ({"task": "third"}, "data.task"),
        ({"dim": 0}, "data.dim"),
        ({"flip": 0.5}, "data.flip"),
        ({"n_train": 0}, "data.n_train"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**settings)
    with pytest.raises(UserError, match=r"data\.in_features is declared as 3, but the data has 4"):
        make(dim=3)

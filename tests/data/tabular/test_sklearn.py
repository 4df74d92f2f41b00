"""Tables of scikit-learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from replicata.data.tabular.sklearn import SklearnTable
from replicata.errors import UserError
from replicata.streams import Streams

FACTS = {"breast_cancer": (30, 2), "digits": (64, 10), "wine": (13, 3)}


def make(name: str, seed: int = 0, **settings: Any) -> SklearnTable:
    features, classes = FACTS[name]
    fixed = {"in_features": features, "num_classes": classes, "n_val": 30, "n_test": 50, "root": "", "cache": ""}
    data = SklearnTable(name=name, **(fixed | settings))  # type: ignore[arg-type]
    data.streams = Streams(seed)
    data.setup()
    return data


@pytest.mark.parametrize("name", list(FACTS))
def test_facts_and_sizes(name: str) -> None:
    data = make(name)
    assert len(data.splits["val"]["y"]) == 30
    assert len(data.splits["test"]["y"]) == 50
    with pytest.raises(UserError, match=r"data\.num_classes"):
        make(name, num_classes=7)


def test_scale_is_learned_from_training_rows() -> None:
    data = make("breast_cancer", scale="minmax")
    train, test = data.splits["train"]["x"], data.splits["test"]["x"]
    assert torch.equal(train.amin(0), torch.zeros(30))
    torch.testing.assert_close(train.amax(0), torch.ones(30))
    assert float(test.min()) >= 0
    assert float(test.max()) <= 1
    assert not torch.equal(test.amax(0), torch.ones(30))
    standard = make("wine", scale="standard").splits["train"]["x"]
    torch.testing.assert_close(standard.mean(0), torch.zeros(13), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(13), rtol=0, atol=1e-5)


def test_rows_have_unit_length_after_scaling() -> None:
    for split in make("breast_cancer", scale="minmax", unit_norm=True).splits.values():
        torch.testing.assert_close(split["x"].norm(dim=1), torch.ones(len(split["x"])))


def test_label_noise_falls_on_training_rows_alone() -> None:
    clean, noisy = make("breast_cancer"), make("breast_cancer", label_noise=0.2)
    for name in ("val", "test"):
        assert torch.equal(clean.splits[name]["y"], noisy.splits[name]["y"])
    assert torch.equal(clean.splits["train"]["x"], noisy.splits["train"]["x"])
    assert 0.14 < float((clean.splits["train"]["y"] != noisy.splits["train"]["y"]).double().mean()) < 0.26


def test_split_depends_on_the_seed_and_is_stratified() -> None:
    first, second = make("breast_cancer", 0), make("breast_cancer", 1)
    assert not torch.equal(first.splits["test"]["x"], second.splits["test"]["x"])
    assert first.fingerprint == second.fingerprint
    assert abs(float(first.splits["test"]["y"].double().mean()) - 357 / 569) < 0.02


def test_two_classes_of_the_digits() -> None:
    data = make("digits", classes=[3, 8], num_classes=2)
    labels = torch.cat([split["y"] for split in data.splits.values()])
    assert torch.bincount(labels).tolist() == [183, 174]


def test_wrong_values_are_refused_by_name() -> None:
    for settings, message in (
        ({"scale": "log"}, "data.scale"),
        ({"label_noise": 1.0}, "data.label_noise"),
        ({"classes": [1, 11]}, "data.classes"),
    ):
        with pytest.raises(ValueError, match=message):
            make("wine", **settings)

"""Nested training: the plain loop, and nothing but its arguments."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.optim.nested import Plateau, accuracy, fit_classifier
from replicata.streams import Stream


def split(rows: int = 40, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (rows,), generator=generator)
    return {"x": torch.randn(rows, 1, 4, 4, generator=generator) + y[:, None, None, None], "y": y}


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, 3)
    )


def fit(stream: Stream, **settings: Any) -> dict[str, float]:
    given: dict[str, Any] = {"epochs": 3, "batch_size": 16, "optimizer": partial(torch.optim.Adam, lr=0.01)}
    given |= settings
    make, optimizer = given.pop("build", build), given.pop("optimizer")
    return fit_classifier(
        make, optimizer, split(), {"val": split(seed=1), "test": split(seed=2)}, stream=stream, **given
    )


def test_a_function_of_its_arguments_that_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fit(Stream(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    used = Stream(3)
    torch.rand(5, generator=used.torch)
    assert fit(used) == first
    assert fit(Stream(4)) != first


def test_it_is_the_plain_loop() -> None:
    models = []

    def kept() -> nn.Module:
        models.append(build())
        return models[-1]

    scores = fit(Stream(3), build=kept)
    data, order, inside = split(), Stream(3).at(1), Stream(3).at(0)
    with inside.as_global():
        model = build().to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(3):
            for rows in torch.randperm(40, generator=order.torch)[:32].split(16):  # the last eight rows are no batch
                optimizer.zero_grad()
                x = data["x"].contiguous(memory_format=torch.channels_last)[rows]
                F.cross_entropy(model(x), data["y"][rows]).backward()
                optimizer.step()
    for mine, theirs in zip(models[0].parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert scores == {"val": accuracy(model, split(seed=1)), "test": accuracy(model, split(seed=2))}


def test_accuracy_is_a_share_whatever_the_blocks() -> None:
    data, model = split(), build().eval()
    expected = float((model(data["x"]).argmax(1) == data["y"]).double().mean())
    assert accuracy(model, data) == accuracy(model, data, rows=7) == pytest.approx(expected)


def test_plateau_lowers_the_rate_and_stops() -> None:
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            rates.append(self.param_groups[0]["lr"])

    # Nothing is learned, so accuracy never rises above the first epoch's: one batch an epoch.
    plateau = Plateau(factor=0.1, patience=2, stop=5, floor=0.005)
    fit(Stream(0), epochs=30, batch_size=40, optimizer=partial(Watched, lr=1.0), plateau=plateau)
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01])
    rates.clear()
    fit(Stream(0), epochs=9, batch_size=40, optimizer=partial(Watched, lr=1.0), plateau=Plateau(0.01, 2, floor=0.005))
    assert rates == pytest.approx([1, 1, 1, 0.01, 0.01, 0.005, 0.005, 0.005, 0.005])


def test_augmentation_sees_training_batches_only() -> None:
    seen: list[int] = []

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(len(x))
        return x

    fit(Stream(0), epochs=1, augment=augment)
    assert seen == [16, 16]


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    assert fit(Stream(0), epochs=2, batch_size=64) != fit(Stream(0), epochs=20, batch_size=64)

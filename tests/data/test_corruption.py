"""Label noise and class subsets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replicata.data.corruption import flip_labels, keep_classes
from replicata.streams import Stream


@given(st.integers(2, 6), st.floats(0, 0.9), st.integers(0, 50))
def test_flipped_labels_are_other_classes_at_the_given_rate(classes: int, rate: float, seed: int) -> None:
    labels = torch.arange(3000) % classes
    noisy = flip_labels(labels, rate, classes, Stream(seed))
    assert int(noisy.min()) >= 0
    assert int(noisy.max()) < classes
    assert abs(float((noisy != labels).double().mean()) - rate) < 0.05
    assert torch.equal(noisy[:100], flip_labels(labels[:100], rate, classes, Stream(seed)))  # nested


def test_flips_reach_all_other_classes_alike() -> None:
    noisy = flip_labels(torch.zeros(9000, dtype=torch.long), 0.9, 4, Stream(0))
    shares = torch.bincount(noisy, minlength=4)[1:] / 9000
    torch.testing.assert_close(shares, torch.full((3,), 0.3), rtol=0, atol=0.02)


def test_keep_classes_relabels_in_order() -> None:
    split = {"x": torch.arange(8.0), "y": torch.tensor([3, 8, 1, 3, 8, 0, 1, 3])}
    kept = keep_classes(split, [8, 3])
    assert kept["x"].tolist() == [0, 1, 3, 4, 7]
    assert kept["y"].tolist() == [1, 0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"data\.classes: there are no rows of \[5\]"):
        keep_classes(split, [5, 3])
    with pytest.raises(ValueError, match=r"data\.classes must differ"):
        keep_classes(split, [3, 3])

"""SAME padding: output sides, and the values of a convolution written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.nn.same_padding import SameConv2d, SamePool2d, same_padding

SIDES, SIZES, STRIDES = st.integers(1, 12), st.integers(1, 7), st.integers(1, 4)


@given(SIDES, SIZES, STRIDES)
def test_padding_is_just_enough_and_its_larger_half_at_the_end(side: int, size: int, stride: int) -> None:
    before, after = same_padding(side, size, stride)
    assert before <= after <= before + 1
    outputs = math.ceil(side / stride)
    needed = (outputs - 1) * stride + size
    assert side + before + after == max(side, needed)


@settings(max_examples=40)
@given(SIDES, SIDES, SIZES, STRIDES)
def test_layers_halve_as_tensorflow_does(height: int, width: int, size: int, stride: int) -> None:
    x = torch.randn(2, 3, height, width)
    shape = (math.ceil(height / stride), math.ceil(width / stride))
    assert SameConv2d(3, 5, size, stride)(x).shape == (2, 5, *shape)
    for kind in ("max", "avg"):
        assert SamePool2d(kind, size, stride)(x).shape == (2, 3, *shape)


@settings(max_examples=30)
@given(SIDES, SIZES)
def test_at_stride_one_it_is_pytorchs_own(side: int, size: int) -> None:
    x, layer = torch.randn(2, 3, side, side), SameConv2d(3, 4, size)
    expected = F.conv2d(x, layer.weight, layer.bias, padding="same")
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_values_of_a_strided_window_at_the_edge() -> None:
    x = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    layer = SameConv2d(1, 1, 3, 2)
    torch.nn.init.ones_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    # A side of 4 at stride 2 needs one zero, at the end: windows start at rows and columns 0 and 2.
    expected = torch.tensor(
        [[x[0, 0, :3, :3].sum(), x[0, 0, :3, 2:].sum()], [x[0, 0, 2:, :3].sum(), x[0, 0, 2:, 2:].sum()]]
    )
    torch.testing.assert_close(layer(x)[0, 0], expected)
    means = torch.tensor(
        [[x[0, 0, :3, :3].mean(), x[0, 0, :3, 2:].mean()], [x[0, 0, 2:, :3].mean(), x[0, 0, 2:, 2:].mean()]]
    )
    torch.testing.assert_close(SamePool2d("avg", 3, 2)(x)[0, 0], means)
    torch.testing.assert_close(SamePool2d("max", 3, 2)(-x)[0, 0], -torch.tensor([[1.0, 3], [9, 11]]))


def test_an_unknown_kind_of_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="max or avg"):
        SamePool2d("sum", 2, 2)

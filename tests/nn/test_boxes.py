"""Box codes and matching, against torchvision's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from replicata.nn.boxes import IGNORED, LARGEST, NEGATIVE, decode, encode, match


def boxes(seed: int, *shape: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    corner = 80 * torch.rand(*shape, 2, generator=rng)
    return torch.cat([corner, corner + 1 + 40 * torch.rand(*shape, 2, generator=rng)], -1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_codes_are_torchvisions_and_decoding_undoes_encoding(seed: int) -> None:
    true, references = boxes(seed, 7), boxes(seed + 1, 7)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    codes = encode(true, references)
    torch.testing.assert_close(codes, coder.encode_single(true, references), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decode(codes, references), true, atol=1e-4, rtol=1e-5)
    wild = 3 * torch.randn(7, 4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(decode(wild, references), coder.decode_single(wild, references), atol=1e-3, rtol=1e-5)


def test_growth_is_limited() -> None:
    reference = torch.tensor([0.0, 0.0, 10.0, 10.0])
    side = decode(torch.tensor([0.0, 0.0, 100.0, LARGEST]), reference)
    assert float(side[2] - side[0]) == pytest.approx(625)
    assert float(side[3] - side[1]) == pytest.approx(625)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_matches_are_torchvisions(seed: int, many: int) -> None:
    references, true = boxes(seed, 60), boxes(seed + 1, 2, 6)
    present = torch.arange(6) < torch.tensor([[many], [6]])
    found = match(references, true, present, 0.5, 0.4)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for row in range(2):
        overlap = box_iou(true[row][present[row]], references)
        if bool((overlap.amax(1) == 0).any()):
            continue  # torchvision then gives such a box every reference that it does not touch
        assert torch.equal(found[row], matcher(overlap))


def test_thresholds_padding_and_rescue() -> None:
    references = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 22], [0, 0, 10, 30], [50, 50, 60, 60]])
    true = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 52, 52], [50, 50, 60, 60], [80, 80, 90, 90]]])
    present = torch.tensor([[True, True, False, True]])
    # 10/22 lies between the thresholds; the small box keeps its best reference though it overlaps by 0.04 only; the
    # last one touches nothing.
    assert match(references, true, present).tolist() == [[0, IGNORED, NEGATIVE, 1]]
    assert match(references, true, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[NEGATIVE] * 4]

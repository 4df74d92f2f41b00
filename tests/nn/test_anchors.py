"""Cells and anchors of a pyramid, against torchvision's."""

from __future__ import annotations

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from replicata.nn.anchors import anchor_shapes, anchors, cell_centres, cell_strides

SIZES, STRIDES = [(3, 4), (2, 2)], [8, 16]


def test_anchors_are_torchvisions_but_for_its_rounding() -> None:
    scales, ratios = [3.0, 4.5], [0.5, 1.0, 2.0]
    theirs = AnchorGenerator(tuple(tuple(s * scale for scale in scales) for s in STRIDES), (tuple(ratios),) * 2)
    theirs.cell_anchors = [anchor_shapes([s * scale for scale in scales], ratios) for s in STRIDES]
    expected = torch.cat(theirs.grid_anchors(SIZES, [(torch.tensor(s), torch.tensor(s)) for s in STRIDES]))
    found = anchors(SIZES, STRIDES, scales, ratios)
    assert found.shape == (16 * 6, 4)
    torch.testing.assert_close(found, expected)
    rounded = AnchorGenerator.generate_anchors(theirs, [24.0, 36.0], ratios)
    assert torch.equal(anchor_shapes([24.0, 36.0], ratios).round(), rounded)


def test_shapes_keep_their_area_and_have_their_ratio() -> None:
    w, h = (anchor_shapes([4.0], [0.5, 2.0])[:, 2:] * 2).unbind(1)
    torch.testing.assert_close(w * h, torch.full((2,), 16.0))
    torch.testing.assert_close(h / w, torch.tensor([0.5, 2.0]))


def test_cells_are_counted_row_by_row() -> None:
    centres = cell_centres(SIZES, STRIDES)
    assert centres[:5].tolist() == [[4, 4], [12, 4], [20, 4], [28, 4], [4, 12]]
    assert centres[12:].tolist() == [[8, 8], [24, 8], [8, 24], [24, 24]]
    assert cell_strides(SIZES, STRIDES).tolist() == [8.0] * 12 + [16.0] * 4

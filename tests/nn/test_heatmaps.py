"""Gaussian targets and peaks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.nn.anchors import cell_centres
from replicata.nn.heatmaps import corner_radius, gaussian_targets, peaks


def overlap(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    from torchvision.ops import box_iou

    return float(box_iou(torch.tensor([one], dtype=torch.float64), torch.tensor([two], dtype=torch.float64)))


@settings(max_examples=15, deadline=None)
@given(st.floats(5, 200), st.floats(5, 200), st.floats(0.3, 0.9))
def test_radius_is_where_the_worst_of_three_moves_reaches_the_overlap(w: float, h: float, least: float) -> None:
    sides = torch.tensor([w], dtype=torch.float64), torch.tensor([h], dtype=torch.float64)
    r = float(corner_radius(*sides, least))
    box = (0.0, 0.0, w, h)
    moves = [(r, r, w + r, h + r), (r, r, w - r, h - r), (-r, -r, w + r, h + r)]
    assert min(overlap(box, moved) for moved in moves) == pytest.approx(least, abs=1e-6)


def test_radius_of_cornernet() -> None:
    """A box of 10x10 at 0.7: the three roots are 0.8, 0.8, 0.98 to the second digit; the least counts."""
    roots = [(20 - (400 - 400 * 0.3 / 1.7) ** 0.5) / 2, (40 - (1600 - 1600 * 0.3) ** 0.5) / 8]
    roots.append((-28 + (784 + 16 * 0.7 * 0.3 * 100) ** 0.5) / 5.6)
    assert min(roots) > 0
    assert float(corner_radius(torch.tensor(10.0), torch.tensor(10.0))) == pytest.approx(min(roots), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_targets_are_the_definition(seed: int) -> None:
    """Cell by cell and point by point, as the definition says."""
    rng = torch.Generator().manual_seed(seed)
    size, stride, classes = (5, 6), 8, 3
    points = torch.rand(2, 4, 2, generator=rng) * 60 - 4  # some lie outside
    sigma = 1 + 6 * torch.rand(2, 4, generator=rng)
    labels = torch.randint(-1, classes, (2, 4), generator=rng)
    heat, offset, cells = gaussian_targets(points, sigma, labels, classes, size=size, stride=stride)
    centres = cell_centres([size], [stride])
    for row in range(2):
        expected = torch.zeros(classes, len(centres))
        real = points[row][labels[row] >= 0]
        nearest = {int(((centres - point) ** 2).sum(1).argmin()) for point in real}
        assert set(cells[row].flatten().nonzero().flatten().tolist()) == nearest
        for place, centre in enumerate(centres):
            values = [-1.0] * 4
            for number in range(4):
                if labels[row, number] >= 0:
                    own = centres[((centres - points[row, number]) ** 2).sum(1).argmin()]
                    distance = ((centre - own) ** 2).sum()
                    values[number] = float(torch.exp(-distance / (2 * sigma[row, number] ** 2)))
            best = max(range(4), key=lambda number: values[number])
            if values[best] >= 0:
                expected[labels[row, best], place] = values[best]
            at = offset[row].flatten(1)[:, place]
            wanted = (points[row, best] - centre) / stride if place in nearest else torch.zeros(2)
            torch.testing.assert_close(at, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(heat[row].flatten(1), expected, atol=1e-6, rtol=1e-5)


def test_a_point_on_a_cells_centre() -> None:
    points, labels = torch.tensor([[[20.0, 12.0]]]), torch.tensor([[1]])
    heat, offset, cells = gaussian_targets(points, torch.tensor([[2.0]]), labels, 2, size=(4, 4), stride=8)
    assert heat[0, 1, 1, 2] == 1
    assert heat[0, 0].abs().sum() == 0
    assert int(cells.sum()) == 1
    assert offset.abs().sum() == 0


def test_no_point_no_target() -> None:
    nothing = torch.zeros(1, 3, 2), torch.ones(1, 3), torch.full((1, 3), -1)
    heat, offset, cells = gaussian_targets(*nothing, 2, size=(2, 2), stride=8)
    assert not heat.any()
    assert not offset.any()
    assert not cells.any()


def test_peaks_are_local_maxima_of_their_class() -> None:
    heat = torch.zeros(1, 2, 4, 5)
    heat[0, 0, 1, 1], heat[0, 0, 1, 2], heat[0, 0, 3, 4], heat[0, 1, 1, 2] = 0.9, 0.8, 0.5, 0.7
    values, cells = peaks(heat, 4)
    assert values[0].tolist() == pytest.approx([0.9, 0.7, 0.5, 0.0])  # 0.8 lies beside 0.9 and is no maximum
    assert cells[0, :3].tolist() == [6, 7, 19]
    assert peaks(heat, 100)[0].shape == (1, 20)

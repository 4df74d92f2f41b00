"""Detections from dense predictions, against torchvision's RetinaNet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import BoxCoder

from replicata.nn.boxes import decode
from replicata.nn.suppression import Suppression


@pytest.mark.parametrize("candidates", [1000, 5])
def test_detections_are_torchvisions(candidates: int) -> None:
    rng = torch.Generator().manual_seed(0)
    levels = [40, 12]
    logits, codes = torch.randn(2, 52, 3, generator=rng) - 1, torch.randn(2, 52, 4, generator=rng) / 3
    corner = 60 * torch.rand(52, 2, generator=rng)
    anchors = torch.cat([corner, corner + 10 + 20 * torch.rand(52, 2, generator=rng)], 1)
    rules = {"score_thresh": 0.3, "nms_thresh": 0.4, "detections_per_img": 12, "topk_candidates": candidates}
    settings = SimpleNamespace(**rules, box_coder=BoxCoder((1.0, 1.0, 1.0, 1.0)))
    sizes = [(64, 80), (70, 64)]
    theirs = RetinaNet.postprocess_detections(
        settings,
        {"cls_logits": list(logits.split(levels, 1)), "bbox_regression": list(codes.split(levels, 1))},
        [list(anchors.split(levels))] * 2,
        sizes,
    )
    ours = Suppression(0.3, 0.4, 12, candidates)(logits.sigmoid(), decode(codes, anchors), levels, sizes)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one["scores"]) == (12 if candidates == 1000 else len(other["scores"]))
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[name], other[name])


def test_nothing_above_the_score_is_no_detection() -> None:
    (found,) = Suppression()(torch.zeros(1, 3, 2), torch.rand(1, 3, 4), [3], [(8, 8)])
    assert found["boxes"].shape == (0, 4)
    assert len(found["labels"]) == 0

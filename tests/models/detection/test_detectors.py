"""RetinaNet and FCOS against torchvision's, pyramids and backbones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder, Matcher
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from replicata.models.detection.backbones import ConvBackbone, TorchvisionResNet
from replicata.models.detection.detector import Dense, Detector
from replicata.models.detection.fcos import FCOS
from replicata.models.detection.pyramid import Pyramid
from replicata.models.detection.retinanet import RetinaNet

SIZES, CLASSES = [(8, 9), (4, 5), (2, 3)], 4


def pyramid(**given_: Any) -> Pyramid:
    return Pyramid(ConvBackbone([1, 64, 72], widths=[8, 8, 8, 8]), 8, 8, **given_)


def scene(seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    corner = 40 * torch.rand(1, 5, 2, generator=rng)
    boxes = torch.cat([corner, corner + 6 + 30 * torch.rand(1, 5, 2, generator=rng)], 2)
    return boxes, torch.tensor([[0, 3, 1, 2, -1]])


def predictions(detector: Detector, seed: int) -> Dense:
    rng = torch.Generator().manual_seed(seed)
    places = sum(height * width for height, width in SIZES) * detector.per_cell
    logits, codes = torch.randn(1, places, CLASSES, generator=rng), torch.randn(1, places, 4, generator=rng)
    return Dense(logits, codes, torch.randn(1, places, generator=rng), SIZES)


def towards(boxes: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    return [{"boxes": boxes[0][labels[0] >= 0], "labels": labels[0][labels[0] >= 0]}]


@pytest.mark.parametrize("seed", range(3))
def test_losses_of_retinanet_are_torchvisions(seed: int) -> None:
    detector = RetinaNet(pyramid(), CLASSES, scales=[2.0, 3.0], depth=1, groups=8)
    dense, (boxes, labels) = predictions(detector, seed), scene(seed)
    head = RetinaNetHead(8, detector.per_cell, CLASSES)
    head.regression_head.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    theirs = TorchvisionRetinaNet.compute_loss(
        SimpleNamespace(head=head, proposal_matcher=Matcher(0.5, 0.4, allow_low_quality_matches=True)),
        towards(boxes, labels),
        {"cls_logits": dense.logits, "bbox_regression": dense.codes},
        [detector.anchors(SIZES, boxes.device)],
    )
    sums, positives = detector.losses(dense, boxes, labels)
    assert positives > 0
    torch.testing.assert_close(sums["cls"] / positives, theirs["classification"])
    torch.testing.assert_close(sums["box"] / positives, theirs["bbox_regression"])


@pytest.mark.parametrize("seed", range(3))
def test_losses_of_fcos_are_torchvisions(seed: int) -> None:
    detector = FCOS(pyramid(), CLASSES, reach=8.0, depth=1, groups=8)
    dense, (boxes, labels) = predictions(detector, seed), scene(seed)
    dense = dense._replace(codes=dense.codes.abs())
    centre, stride = detector._cells(SIZES, boxes.device)
    anchors = torch.cat([centre - stride[:, None] / 2, centre + stride[:, None] / 2], 1)
    assert dense.quality is not None
    theirs = TorchvisionFCOS.compute_loss(
        SimpleNamespace(head=FCOSHead(32, 1, CLASSES), center_sampling_radius=1.5, box_coder=BoxLinearCoder()),
        towards(boxes, labels),
        {"cls_logits": dense.logits, "bbox_regression": dense.codes, "bbox_ctrness": dense.quality.unsqueeze(2)},
        [anchors],
        detector.places(dense),
    )
    sums, positives = detector.losses(dense, boxes, labels)
    assert positives > 0
    torch.testing.assert_close(sums["cls"] / positives, theirs["classification"])
    torch.testing.assert_close(sums["box"] / positives, theirs["bbox_regression"])
    torch.testing.assert_close(sums["centred"] / positives, theirs["bbox_ctrness"])


@pytest.mark.parametrize("kind", [RetinaNet, FCOS])
def test_an_image_without_boxes_has_only_background(kind: type[Any]) -> None:
    detector = kind(pyramid(), CLASSES, depth=1, groups=8)
    dense = predictions(detector, 0)
    sums, positives = detector.losses(dense, torch.zeros(1, 2, 4), torch.full((1, 2), -1))
    assert int(positives) == 0
    assert float(sums["cls"]) > 0
    assert float(sums["box"]) == 0


@pytest.mark.parametrize("kind", [RetinaNet, FCOS])
def test_places_follow_levels_and_cells(kind: type[Any]) -> None:
    """A prediction that only one cell of one level makes appears at that cell's places."""
    detector = kind(pyramid(), CLASSES, depth=1, groups=8)
    levels = [torch.zeros(1, 8, *size) for size in SIZES]
    levels[1][0, :, 2, 3] = 1.0
    nn.init.zeros_(detector.cls.weight)
    with torch.no_grad():
        detector.cls.weight[:, :, 1, 1] = 1.0
    changed = (detector.predict(levels, levels).logits[0] > 0).all(1).nonzero().flatten()
    first = (72 + 2 * 5 + 3) * detector.per_cell
    assert changed.tolist() == list(range(first, first + detector.per_cell))


def test_every_level_has_its_stride_and_an_odd_image_is_covered() -> None:
    detector = RetinaNet(pyramid(extra=1), CLASSES, depth=1, groups=8)
    dense = detector(torch.rand(2, 1, 60, 72))
    assert detector.strides == [8, 16, 32, 64]
    assert dense.sizes == [(8, 9), (4, 5), (2, 3), (1, 2)]
    assert dense.logits.shape == (2, sum(detector.places(dense)), CLASSES)
    assert detector.boxes(dense).shape == (2, sum(detector.places(dense)), 4)


def test_predictions_start_near_the_prior() -> None:
    detector = RetinaNet(pyramid(), CLASSES, depth=2, groups=8)
    scores = detector.scores(detector(torch.rand(1, 1, 64, 72)))
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01), atol=5e-3, rtol=0)


def test_a_wide_layer_is_one_more_convolution_of_each_tower() -> None:
    plain, wide = (RetinaNet(pyramid(), CLASSES, depth=1, groups=8, wide=width) for width in (0, 16))
    convolutions = [
        [part.out_channels for part in detector.cls_tower if isinstance(part, nn.Conv2d)] for detector in (plain, wide)
    ]
    assert convolutions == [[8], [8, 16]]
    assert (plain.channels, wide.channels) == (8, 16)


def test_torchvisions_resnet_keeps_its_statistics_and_its_first_stage() -> None:
    from torchvision.models import resnet18

    net = resnet18()
    backbone = TorchvisionResNet("resnet18", weights=None, frozen=1)
    assert backbone.training
    assert not any(part.training for part in backbone.train().modules() if isinstance(part, nn.BatchNorm2d))
    backbone = TorchvisionResNet("resnet18", weights=None, frozen=1)  # nor before anybody has said train()
    own = {f"layer{number + 1}.{name}": value for number, stage in enumerate(backbone.stages)
           for name, value in stage.state_dict().items()}  # fmt: skip
    own |= {f"{part}.{name}": value for part, at in (("conv1", 0), ("bn1", 1))
            for name, value in backbone.stem[at].state_dict().items()}  # fmt: skip
    net.load_state_dict(own, strict=False)
    x = torch.rand(2, 3, 64, 64)
    found = backbone(x)
    net.eval()
    expected = net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))))
    torch.testing.assert_close(found[-1], expected)
    assert [level.shape[1] for level in found] == backbone.channels == [64, 128, 256, 512]
    assert [64 // level.shape[2] for level in found] == backbone.strides
    learning = {name.split(".")[0] + name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning == {"stages1", "stages2", "stages3"}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RetinaNet(pyramid(), 2, depth=0, groups=8), "model.depth"),
        (lambda: RetinaNet(pyramid(), 2, wide=3, groups=8), "model.wide"),
        (lambda: RetinaNet(pyramid(), 2, positive=0.3, groups=8), "negative <= positive"),
        (lambda: FCOS(pyramid(), 2, reach=0, groups=8), "model.reach"),
        (lambda: pyramid(first=4), "model.pyramid.first"),
        (lambda: Pyramid(ConvBackbone([1, 8, 8]), 12, 8), "model.pyramid.channels"),
        (lambda: ConvBackbone([1, 8, 8], widths=[12]), "backbone.widths"),
        (lambda: TorchvisionResNet("resnet18", None, frozen=5), "backbone.frozen"),
    ],
)
def test_wrong_values_are_refused_by_name(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()

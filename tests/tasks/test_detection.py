"""Detection: losses, precision, processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from replicata.data.vision.scenes import DetectionScenes
from replicata.metrics.detection import CocoAP
from replicata.models.detection.backbones import ConvBackbone
from replicata.models.detection.pyramid import Pyramid
from replicata.models.detection.retinanet import RetinaNet
from replicata.streams import Streams
from replicata.tasks.detection import Detection, truth


def scenes(**given_: Any) -> DetectionScenes:
    facts = {"in_shape": [1, 48, 48], "num_classes": 10, "max_objects": 2, "size": 48, "objects": [1, 2]}
    sizes = {"n_train": 12, "n_val": 4, "n_test": 6, "batch_size": 6, "eval_batch_size": 4}
    return DetectionScenes("digits", root="", cache="", sides=[14, 24], **(facts | sizes | given_))


def detection() -> Detection:
    with Streams(0).init.as_global():
        pyramid = Pyramid(ConvBackbone([1, 48, 48], widths=[8, 8, 8, 8]), 8, 8)
        model = RetinaNet(pyramid, 10, scales=[3.0], depth=1, groups=8)
        return Detection(model=model, score=0.005, optimizer=partial(torch.optim.Adam, lr=1e-3))


def rows(data: DetectionScenes, split: str = "train") -> dict[str, Tensor]:
    data.streams = Streams(0)
    data.setup("fit")
    return data.transform(dict(data.splits[split]))


def test_it_trains_and_its_precision_is_that_of_its_detections(fit: Callable[..., Any]) -> None:
    method, data = detection(), scenes()
    trainer = fit(method, data, max_epochs=2)
    assert {"train/loss", "train/cls", "train/box", "val/ap", "val/loss"} <= set(trainer.callback_metrics)
    (logged,) = trainer.test(method, datamodule=data, verbose=False)
    batch = data.transform(dict(data.splits["test"]))
    with torch.no_grad():
        found = method.eval().detect(batch, method(batch["x"]))
    metric = CocoAP()
    metric.update(found, truth(batch))
    for name, value in metric.compute().items():
        assert logged[f"test/{name}"] == pytest.approx(value, abs=1e-6)
    assert [row["value"] for row in method.tables["precision"]] == pytest.approx(
        [logged[f"test/{name}"] for name in ("ap", "ap50", "ap75")]
    )


def test_boxes_are_cut_at_the_image_not_at_its_padding() -> None:
    method, data = detection(), scenes()
    batch = rows(data, "test")
    batch["size"] = torch.tensor([[24, 40]]).expand(len(batch["x"]), -1)
    with torch.no_grad():
        detections = method.detect(batch, method(batch["x"]))
    for found in detections:
        assert len(found["boxes"]) > 0
        assert float(found["boxes"][:, 0::2].max()) <= 40
        assert float(found["boxes"][:, 1::2].max()) <= 24


def test_truth_leaves_padding_out_and_names_crowds() -> None:
    batch = {"boxes": torch.rand(1, 3, 4), "labels": torch.tensor([[2, -1, 0]]), "crowd": torch.tensor([[0, 0, 1]]) > 0}
    (image,) = truth(batch)
    assert torch.equal(image["boxes"], batch["boxes"][0, [0, 2]])
    assert image["labels"].tolist() == [2, 0]
    assert image["iscrowd"].tolist() == [0, 1]


def gradient(method: Detection, batch: dict[str, Tensor]) -> Tensor:
    method.zero_grad()
    method.train()
    sum(method.objective(batch, method(batch["x"])).values()).backward()
    return method.model.cls.weight.grad.clone()


@pytest.mark.parametrize("shares", [(3, 3), (5, 1), (6, 0)])
def test_the_mean_of_the_processes_gradients_is_that_of_the_whole_batch(
    shares: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However unevenly a batch is dealt out; a process without rows gets one that does not count."""
    method, data = detection(), scenes()
    batch = {name: column[:6] for name, column in rows(data).items()}
    whole = gradient(method, batch)

    parts = [{name: column[: shares[0]] for name, column in batch.items()}]
    parts.append({name: column[shares[0] :] if shares[1] else column[:1] for name, column in batch.items()})
    for part, share in zip(parts, shares, strict=True):
        if shares[0] != shares[1]:
            part["share"] = torch.tensor(share * 2 / 6)
    counts = [float(method.model.losses(method(p["x"]), p["boxes"], p["labels"])[1]) for p in parts]
    total = counts[0] + (counts[1] if shares[1] else 0)

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.fill_(total))
    mean = (gradient(method, parts[0]) + gradient(method, parts[1])) / 2
    torch.testing.assert_close(mean, whole, atol=1e-6, rtol=1e-4)


def test_an_image_without_things_is_no_trouble(fit: Callable[..., Any]) -> None:
    method, data = detection(), scenes()
    batch = rows(data)
    batch["labels"] = torch.full_like(batch["labels"], -1)
    losses = method.objective(batch, method(batch["x"]))
    assert all(bool(value.isfinite()) for value in losses.values())
    assert float(losses["box"]) == 0


@pytest.mark.parametrize("wrong", [{"score": 1.0}, {"nms": 0.0}, {"most": 0}, {"candidates": 0}])
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"method: .*{next(iter(wrong))}"):
        Detection(**wrong)

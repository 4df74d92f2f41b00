"""ImageNet, on a tiny set in its layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from replicata.data.vision.imagenet import ImageNet
from replicata.errors import UserError
from replicata.models.resnet import ResNet
from replicata.streams import Stream, Streams
from replicata.tasks.supervised import Classification

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for kind in ("n01", "n02"):
            folder = tmp_path / "imagenet" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{kind}_{number}.JPEG")
    torch.save(({"n01": ("tench",), "n02": ("goldfish",)}, ["n01", "n02"]), tmp_path / "imagenet" / "meta.bin")
    return tmp_path


def data(root: Path, **settings: Any) -> ImageNet:
    facts = {"size": 16, "resize": 20, "in_shape": [3, 16, 16], "in_features": 768, "num_classes": 2}
    made = ImageNet(str(root), **(facts | {"mean": MEAN, "std": STD, "batch_size": 4, "workers": 0} | settings))
    made.streams = Streams(0)
    return made


def test_images_are_torchvisions_classic_recipe(root: Path, fit: Callable[..., Any]) -> None:
    found = data(root)
    model = ResNet([3, 16, 16], 2, widths=[8, 8, 8])  # at least 8 channels: see replicata.run.faults
    method = Classification(num_classes=2, model=model, optimizer=torch.optim.SGD)
    trainer = fit(method, found, max_epochs=2)
    assert trainer.global_step == 4  # two whole batches an epoch
    assert "val/acc" in trainer.callback_metrics

    standard = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    cut = [transforms.RandomResizedCrop(16), transforms.RandomHorizontalFlip()]
    batch = next(iter(found.train_dataloader()))
    for row, image, label in zip(batch["index"].tolist(), batch["x"], batch["y"].tolist(), strict=True):
        path, expected = found.readers["train"].images.samples[row]
        assert label == expected
        with Stream(*found.streams.noise.key, 0, row).as_global():
            torch.testing.assert_close(image, transforms.Compose([*cut, *standard])(Image.open(path)))
    evaluation = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16), *standard])
    batch = next(iter(found.test_dataloader()))
    torch.testing.assert_close(batch["x"][1], evaluation(Image.open(found.readers["val"].images.samples[1][0])))
    assert batch["index"].tolist() == [0, 1, 2, 3]


def test_what_does_not_fit_is_said_in_one_line(root: Path) -> None:
    found = data(root, num_classes=3)
    with pytest.raises(UserError, match=r"data\.num_classes is declared as 3, but the data has 2"):
        found.setup()
    (root / "imagenet" / "meta.bin").unlink()
    with pytest.raises(UserError, match=r"meta\.bin is missing"):
        data(root).setup()
    with pytest.raises(ValueError, match=r"data\.size"):
        data(root, size=32)
    with pytest.raises(ValueError, match=r"data\.in_shape"):
        data(root, in_features=3)


def test_other_files_have_another_fingerprint(root: Path) -> None:
    one, two = data(root), data(root)
    one.setup()
    (root / "imagenet" / "train" / "n01" / "n01_0.JPEG").unlink()
    two.setup()
    assert one.fingerprint != two.fingerprint

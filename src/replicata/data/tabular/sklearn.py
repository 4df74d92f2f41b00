"""Tables that come with scikit-learn: real data without a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from replicata.data.corruption import flip_labels, keep_classes
from replicata.data.module import Split, TensorDataModule

NAMES = ("breast_cancer", "digits", "wine")


class SklearnTable(TensorDataModule):
    """A classification table, split anew for every seed, stratified by class.

    What is learned from data, the scale, is learned from the training rows; label noise falls on them alone.

    Shapes:
        - ``x``: :math:`(B, F)`; ``y``: :math:`(B)` class ids.

    Args:
        name: ``breast_cancer`` (569 x 30, 2 classes), ``digits`` (1797 x 64, 10) or ``wine`` (178 x 13, 3).
        in_features, num_classes: Declared facts.
        n_val, n_test: Rows of the other splits; training has the rest, or ``n_train`` of it.
        classes: Keep these classes only, relabelled in this order; ``null`` keeps all.
        scale: ``minmax`` to [0, 1] over the training rows (others are clipped to it), ``standard`` to mean 0
            and deviation 1, or ``none``.
        unit_norm: Divide each row by its Euclidean norm, after scaling.
        label_noise: Probability that a training label is replaced by another class.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.
    """

    def __init__(
        self,
        *,
        name: Literal["breast_cancer", "digits", "wine"],
        in_features: int,
        num_classes: int,
        n_val: int,
        n_test: int,
        classes: Sequence[int] | None = None,
        scale: Literal["none", "minmax", "standard"] = "none",
        unit_norm: bool = False,
        label_noise: float = 0.0,
        **loader: Any,
    ) -> None:
        if name not in NAMES:
            raise ValueError(f"data.name must be one of {', '.join(NAMES)}, got {name!r}")
        if scale not in ("none", "minmax", "standard"):
            raise ValueError(f"data.scale must be none, minmax or standard, got {scale!r}")
        if not 0 <= label_noise < 1:
            raise ValueError(f"data.label_noise must be in [0, 1), got {label_noise}")
        super().__init__(n_val=n_val, n_test=n_test, **loader)
        self.table = name
        self.in_features, self.num_classes = in_features, num_classes
        self.classes, self.scale, self.unit_norm, self.label_noise = classes, scale, unit_norm, label_noise

    def load(self) -> dict[str, Split]:
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{self.table}")(return_X_y=True)
        split = {"x": torch.from_numpy(x).double(), "y": torch.from_numpy(y).long()}
        return {"train": split if self.classes is None else keep_classes(split, self.classes)}

    def process(self, splits: dict[str, Split]) -> dict[str, Split]:
        train = splits["train"]["x"]
        for split in splits.values():
            x = split["x"]
            if self.scale == "minmax":
                low, high = train.amin(0), train.amax(0)
                x = ((x - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
            elif self.scale == "standard":
                x = (x - train.mean(0)) / train.std(0, correction=0).clamp_min(1e-12)
            if self.unit_norm:
                x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
            split["x"] = x.float()
        noise = self.streams.split.at(3)
        splits["train"]["y"] = flip_labels(splits["train"]["y"], self.label_noise, self.num_classes, noise)
        return splits

    def facts(self) -> dict[str, Any]:
        labels = torch.cat([split["y"] for split in self.splits.values()])
        return {"in_features": self.splits["train"]["x"].shape[1], "num_classes": len(labels.unique())}

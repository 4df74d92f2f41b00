r"""Two classes on the positive part of a sphere, with a known Bayes error."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from replicata.data.corruption import flip_labels
from replicata.data.module import Split, TensorDataModule
from replicata.streams import Stream

CAP_ANGLE = 0.30  # radians: 18 % of the points for dim = 2


class Sphere(TensorDataModule):
    r"""Points :math:`x = |z| / \|z\|`, :math:`z \sim N(0, I_{d+1})`, with noisy labels in all splits.

    No inner product of two points is negative. The class before the noise depends on :math:`x` alone, so the
    best classifier errs exactly where the noise fell: on ``flip`` of the examples on average, and on the rows
    with ``y != clean`` of a sample.

    The rows of a smaller split are the first rows of a larger one with the same seed.

    Shapes:
        - ``x``: :math:`(B, d + 1)` unit vectors; ``y``: :math:`(B)` in {0, 1}; ``clean``: :math:`(B)` before the noise.

    Args:
        task: ``half``: class 1 is :math:`x_0 > x_1`, half of the points; ``cap``: class 1 lies within 0.30 rad of
            the diagonal direction.
        dim: Dimension :math:`d` of the sphere.
        n_train, n_val, n_test: Examples to draw.
        flip: Probability of the other label.
        in_features: Declared fact, ``dim + 1``.
        num_classes: Declared fact, 2.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.
    """

    def __init__(
        self,
        *,
        task: Literal["half", "cap"] = "half",
        dim: int = 2,
        n_train: int = 1600,
        n_val: int = 500,
        n_test: int = 2000,
        flip: float = 0.15,
        in_features: int = 3,
        num_classes: int = 2,
        **loader: Any,
    ) -> None:
        if task not in ("half", "cap"):
            raise ValueError(f"data.task must be half or cap, got {task!r}")
        if dim < 1:
            raise ValueError(f"data.dim must be at least 1, got {dim}")
        if not 0 <= flip < 0.5:
            raise ValueError(f"data.flip must be in [0, 0.5), got {flip}")
        if min(n_train, n_val, n_test) < 1:
            raise ValueError(f"data.n_train, n_val and n_test must be at least 1, got {n_train}, {n_val}, {n_test}")
        super().__init__(**loader)
        self.task, self.dim, self.flip = task, dim, flip
        self.counts = {"train": n_train, "val": n_val, "test": n_test}
        self.in_features, self.num_classes = in_features, num_classes

    @property
    def bayes_error(self) -> float:
        """The lowest error that a classifier can have on fresh examples."""
        return self.flip

    def load(self) -> dict[str, Split]:
        return {
            name: self._draw(size, self.streams.split.at(part)) for part, (name, size) in enumerate(self.counts.items())
        }

    def facts(self) -> dict[str, Any]:
        return {"in_features": self.splits["train"]["x"].shape[1], "num_classes": 2}

    def _draw(self, size: int, stream: Stream) -> Split:
        z = torch.from_numpy(stream.at(0).numpy.standard_normal((size, self.dim + 1))).abs()
        x = z / z.norm(dim=1, keepdim=True)
        clean = self._label(x).long()
        return {"x": x.float(), "y": flip_labels(clean, self.flip, 2, stream.at(1)), "clean": clean}

    def _label(self, x: Tensor) -> Tensor:
        if self.task == "half":
            return x[:, 0] > x[:, 1]
        to_diagonal = x.sum(1) / (self.dim + 1) ** 0.5
        return to_diagonal.clamp(max=1).acos() < CAP_ANGLE

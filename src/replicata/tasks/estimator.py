"""Estimator: anything with scikit-learn's interface, as one unit of work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanSquaredError

from replicata.tasks.base import STAGES
from replicata.tasks.procedure import Procedure

Arrays = dict[str, np.ndarray]


class Estimator(Procedure):
    """Fits an estimator on the training split and scores its predictions on all three.

    Each ``random_state`` that the estimator (or one inside it) leaves open is drawn from the run's ``noise`` stream.

    Args:
        estimator: From a ``_target_`` in the config, with ``fit(x, y)`` and ``predict(x)``; searches and
            pipelines as well.
        num_classes: Classes :math:`C` of ``y``; ``None`` for a regression.
        **task: see :class:`~replicata.tasks.base.Task`.

    Attributes:
        fitted: The estimator after ``work``.
    """

    def __init__(self, estimator: Any, num_classes: int | None = None, **task: Any) -> None:
        for name in ("fit", "predict", "get_params"):
            if not callable(getattr(estimator, name, None)):
                raise ValueError(f"method.estimator must have {name}(), {type(estimator).__name__} has not")
        super().__init__(**task)
        self.estimator = estimator
        self.num_classes = num_classes
        self.fitted: Any = None

    def prepare(self, arrays: Arrays) -> Arrays:
        """A split as the estimator gets it: ``x`` :math:`(N, F)` and ``y`` :math:`(N)`."""
        return arrays | {"x": arrays["x"].reshape(len(arrays["x"]), -1)}

    def metrics(self, stage: str) -> MetricCollection:
        if self.num_classes is None:
            return MetricCollection({"mse": MeanSquaredError()})
        return MetricCollection({"acc": MulticlassAccuracy(self.num_classes, average="micro", validate_args=False)})

    def scores(self, stage: str, arrays: Arrays, prediction: np.ndarray) -> Mapping[str, float]:
        """Scores of the predictions :math:`(N)` for one split, without prefix."""
        values = self.metrics(stage)(torch.as_tensor(prediction), torch.as_tensor(arrays["y"]))
        return {name: float(value) for name, value in values.items()}

    def work(self, item: int) -> dict[str, float]:
        from sklearn.base import clone

        arrays = {
            stage: self.prepare({name: column.cpu().numpy() for name, column in self.split(stage).items()})
            for stage in STAGES
        }
        self.fitted = clone(self.estimator)
        open_states = [
            name
            for name, value in self.fitted.get_params().items()
            if name.rpartition("__")[2] == "random_state" and value is None
        ]
        draws = self.streams.noise.at(item).numpy.integers(2**31, size=len(open_states))
        self.fitted.set_params(**dict(zip(open_states, draws.tolist(), strict=True)))
        self.fitted.fit(arrays["train"]["x"], arrays["train"]["y"])
        return {
            f"{stage}/{name}": value
            for stage, split in arrays.items()
            for name, value in self.scores(stage, split, self.fitted.predict(split["x"])).items()
        }

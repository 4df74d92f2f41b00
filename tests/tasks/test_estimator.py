"""Estimator: scikit-learn on whole splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from replicata.data.tabular.sklearn import SklearnTable
from replicata.tasks.estimator import Estimator


def wine() -> SklearnTable:
    return SklearnTable(root="", cache="", name="wine", in_features=13, num_classes=3, n_val=30, n_test=50)


def test_scores_are_those_of_the_estimator_itself(fit: Callable[..., Any]) -> None:
    given = make_pipeline(StandardScaler(), LogisticRegression())
    method, data = Estimator(given, num_classes=3), wine()
    metrics = fit(method, data).callback_metrics
    arrays = {name: (split["x"].numpy(), split["y"].numpy()) for name, split in data.splits.items()}
    alone = make_pipeline(StandardScaler(), LogisticRegression()).fit(*arrays["train"])
    for name, (x, y) in arrays.items():
        assert float(metrics[f"{name}/acc"]) == pytest.approx(float((alone.predict(x) == y).mean()), abs=1e-6)
    assert float(metrics["test/acc"]) > 0.9
    assert not hasattr(given[-1], "coef_")  # what the config holds is left as it is


def test_random_states_come_from_the_run(fit: Callable[..., Any]) -> None:
    def states(seed: int) -> list[Any]:
        forest = GridSearchCV(RandomForestClassifier(n_estimators=3), {"max_depth": [1, 2]}, cv=2)
        method = Estimator(forest, num_classes=3)
        fit(method, wine(), seed=seed)
        return [method.fitted.estimator.random_state, method.fitted.best_score_]

    assert states(0) == states(0)
    assert states(0)[0] != states(1)[0]
    method = Estimator(RandomForestClassifier(n_estimators=3, random_state=5), num_classes=3)
    fit(method, wine())
    assert method.fitted.random_state == 5


def test_regression(fit: Callable[..., Any]) -> None:
    method, data = Estimator(DummyRegressor()), wine()
    metrics = fit(method, data).callback_metrics
    y = {name: split["y"].double() for name, split in data.splits.items()}
    assert float(metrics["test/mse"]) == pytest.approx(float(((y["test"] - y["train"].mean()) ** 2).mean()), rel=1e-6)


def test_what_cannot_predict_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"method\.estimator must have predict"):
        Estimator(StandardScaler())

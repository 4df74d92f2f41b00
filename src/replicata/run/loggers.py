"""Loggers. A run's ``metrics.csv`` is part of its record; the others are the user's choice."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from replicata.errors import UserError
from replicata.run.record import write_atomic


class MetricsCSV(Logger):
    """``metrics.csv``: one row for each step at which something was logged, columns by metric.

    A resumed run logs again, under the same step numbers, what it repeats.

    Args:
        directory: The run's directory.
        every_seconds: The file is renewed at most that often while the run goes.
    """

    def __init__(self, directory: str, every_seconds: float = 2.0) -> None:
        super().__init__()
        self.path = Path(directory) / "metrics.csv"
        self.every_seconds = every_seconds
        self.rows: dict[int, dict[str, Any]] = {}
        self._written = time.monotonic()
        self._dirty = False
        if self.path.exists():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    self.rows[int(row["step"])] = {name: value for name, value in row.items() if value != ""}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The resolved config is a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(int(step or 0), {"step": int(step or 0)})
        row.update(metrics)
        self._dirty = True

    @rank_zero_only
    def save(self) -> None:
        if time.monotonic() - self._written >= self.every_seconds:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write the file now."""
        self._written = time.monotonic()
        if not self._dirty:
            return
        names = dict.fromkeys(["epoch", "step"]) | dict.fromkeys(sorted({n for row in self.rows.values() for n in row}))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[step] for step in sorted(self.rows))
        write_atomic(self.path, text.getvalue())
        self._dirty = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()


def tensorboard(directory: str, **settings: Any) -> Logger:
    """TensorBoard event files under ``tensorboard/`` of the run."""
    _need("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=directory, name="tensorboard", version="", default_hp_metric=False, **settings)


def mlflow(directory: str, tracking_uri: str, experiment: str | None, **settings: Any) -> Logger:
    """MLflow, on a server or in a database file: MLflow no longer writes folders of files.

    Args:
        directory: The run's directory; its hash and seed name the run.
        tracking_uri: Server or database.
        experiment: Name of the experiment.
        **settings: Of Lightning's ``MLFlowLogger``.
    """
    _need("mlflow")
    from lightning.pytorch.loggers import MLFlowLogger

    import_module("mlflow")  # sets up its own logging
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    name = "/".join(Path(directory).parts[-2:])
    return MLFlowLogger(experiment_name=experiment or "adhoc", run_name=name, tracking_uri=tracking_uri, **settings)


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"logger={package} needs {package}: pip install 'replicata[{package}]'")

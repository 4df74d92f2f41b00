"""A run in Weights & Biases, with or without a network. Nothing here imports wandb before a run logs to it."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from replicata.run.record import read_record

log = logging.getLogger(__name__)

FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(?P<id>.+)")
EPOCHWISE = ("train/", "val/", "test/")
ROWS = 200_000  # that a W&B table may have
FLUSH = 1.0  # seconds between writes of the .wandb file; wandb's own 15 are a whole run here


class WandbRun(Logger):
    """One run in Weights & Biases: group = experiment, job type = arm, name = arm and seed.

    It begins when the run begins to log, and ends with the record, not with Lightning's fit. Every row has
    ``batch`` (batches trained) and ``epoch``; metrics of an epoch are drawn over ``epoch``, all others over
    ``batch``. The last values are the summary; ``best/...`` are the best of the validation metrics whose direction
    is known. A resumed run goes on under its W&B id; repeated from the start (``force=true``), it is another.

    Without a login or a network it is kept in the run's folder, and a line says how to upload it. A dashboard that
    fails never fails a run: it is noted in the log, and the run goes on.

    Args:
        directory: The run's directory.
        project: Of W&B.
        entity: User or team; ``None``: the default of the login.
        tags: Beside family, slug and scale of the experiment.
        checkpoint: Whether to upload the last checkpoint as an artifact.
    """

    def __init__(
        self,
        directory: str,
        project: str = "replicata",
        entity: str | None = None,
        tags: list[str] | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.directory = Path(directory)
        self.project, self.entity, self.tags, self.checkpoint = project, entity, list(tags or []), checkpoint
        self.directions: dict[str, str] = {}
        self._run: Any = None
        self._broken = False
        self._row: tuple[int, dict[str, float]] = (-1, {})
        self._defined: set[str] = set()
        self._former: list[Path] = []

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str | None:
        return self._run.id if self._run is not None else None

    @property
    def experiment(self) -> Any:
        """The W&B run, on the first process; Lightning looks at it when the run begins."""
        if self._run is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._safely(self._begin)
        return self._run

    # Begin -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        import wandb

        config = OmegaConf.load(self.directory / "config.yaml")
        assert isinstance(config, DictConfig)
        self.config = config
        identity = self._former_id() or secrets.token_hex(4)
        place = {"project": self.project, "entity": self.entity, "id": identity}
        if os.environ.get("WANDB_SWEEP_ID"):  # the agent has chosen them
            place = {}
        mode, why = wandb_mode()
        self._former = self._folders()
        wandb.setup(settings=wandb.Settings(silent=True))  # what it has to say is one line, below
        try:
            self._run = self._init(wandb, place, mode)
        except wandb.errors.Error as error:
            said = str(error).strip().splitlines() or [f"{_server()} refuses the run"]
            mode, why = "offline", said[0]
            wandb.teardown()  # it has the id in use
            for folder in {*self._folders()} - {*self._former}:
                shutil.rmtree(folder, ignore_errors=True)
            self._run = self._init(wandb, place, mode)
        if why:
            line = f"W&B: {why}; the run is kept offline: wandb sync {self.directory / 'wandb'}"
            print(f"replicata: {line}", file=sys.stderr, flush=True)
        elif mode == "online":
            print(f"replicata: W&B: {self._run.url}", file=sys.stderr, flush=True)
        for axis in ("epoch", "batch"):
            self._run.define_metric(axis, hidden=True)

    def _init(self, wandb: Any, place: dict[str, Any], mode: str | None) -> Any:
        config = self.config
        record = read_record(self.directory) or {}
        name = str(config.get("name") or "adhoc")
        arm, seed = config.get("arm"), config.seed
        content = OmegaConf.to_container(config, resolve=False)
        assert isinstance(content, dict)
        return wandb.init(
            **place,
            dir=str(self.directory),
            name=f"{arm} seed {seed}" if arm else f"{name} {record.get('hash', '')} seed {seed}",
            group=name,
            job_type="search" if (config.get("search") or {}).get("trial") is not None else arm or "run",
            tags=[*dict.fromkeys([*self.tags, *name.removesuffix("_paper").split("/"), scale(config)])],
            config={**content, "hash": record.get("hash")},
            resume="allow",
            reinit="create_new",
            mode=mode,
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=30, x_transaction_log_flush_interval=FLUSH
            ),
        )

    def _folders(self) -> list[Path]:
        """W&B's folders of this run, in the order of their beginning."""
        folders = [path for path in (self.directory / "wandb").glob("*run-*") if FOLDER.fullmatch(path.name)]
        return sorted(folders, key=lambda path: path.name.partition("run-")[2])

    def _former_id(self) -> str | None:
        """The id under which this run has logged before it was interrupted."""
        matches = [FOLDER.fullmatch(path.name) for path in self._folders()]
        return matches[-1]["id"] if matches and matches[-1] else None

    # Rows ------------------------------------------------------------------------------------

    def _safely(self, action: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            action()
        except Exception as error:  # whatever a dashboard may raise is no reason to lose a run
            self._broken = True
            log.warning("W&B: %s; nothing more goes there from this run", error, exc_info=error)
            print(f"replicata: W&B: {error}; the run goes on without it", file=sys.stderr, flush=True)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The resolved config is logged whole."""

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Lightning's way of showing the method: here, which way its validation metrics are better."""
        meter = getattr(model, "meters", {}).get("val")
        for name, metric in meter.metrics.items() if meter is not None else ():
            if metric.higher_is_better is not None:
                self.directions[f"val/{name}"] = "max" if metric.higher_is_better else "min"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        batch = int(step or 0)
        logged = self._row[1] if self._row[0] == batch else {}
        new = {name: value for name, value in metrics.items() if logged.get(name) != value or name not in logged}
        if set(new) <= {"epoch"}:  # given before, ahead of a checkpoint
            return
        self._row = (batch, {**logged, **new})
        row = {**new, "batch": batch, **({"epoch": metrics["epoch"]} if "epoch" in metrics else {})}
        self._safely(lambda: self._log(row))

    def _log(self, row: dict[str, Any]) -> None:
        former, self._former = self._former, []
        if former:
            self._catch_up(former, row["batch"])
        run = self.experiment
        for name in row:
            if name not in self._defined and name not in ("batch", "epoch"):
                run.define_metric(name, step_metric="epoch" if self._once_an_epoch(name) else "batch")
                self._defined.add(name)
        run.log(row)

    def _catch_up(self, folders: Sequence[Path], batch: int) -> None:
        """Log what a killed process had logged before ``batch`` and W&B had not yet written: metrics.csv has it."""
        known = {(row.get("batch"), name) for folder in folders for row in _rows(folder) for name in row}
        for line in _csv(self.directory):
            step = int(line.pop("step"))
            row = {name: float(value) for name, value in line.items() if value and (step, name) not in known}
            if step < batch and set(row) - {"epoch"}:
                self._log({**row, "batch": step, **({"epoch": float(line["epoch"])} if line.get("epoch") else {})})

    def _once_an_epoch(self, name: str) -> bool:
        trainer = self.config.trainer
        within = trainer.get("check_val_every_n_epoch", 1) is None or trainer.get("val_check_interval") not in (
            None,
            1.0,
        )
        return name.startswith(EPOCHWISE) and not name.endswith("_step") and not (within and name.startswith("val/"))

    def flush(self) -> None:
        """Rows are handed over at once; that this exists asks for an epoch's row before its checkpoint."""

    # End -------------------------------------------------------------------------------------

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Lightning says this after fit and again after test: the run ends with :meth:`end`."""

    @rank_zero_only
    def end(self, result: Mapping[str, Any] | None, error: BaseException | None = None) -> None:
        """Log what the run left, and close it.

        Args:
            result: What goes into the record of a finished run.
            error: What ended the run instead.
        """
        if result is not None:
            self._safely(lambda: self._finish(result))
        run, self._run = self._run, None
        if run is None:
            return
        status = "finished" if result is not None else "pruned" if getattr(error, "kind", "") == "pruned" else "failed"
        if isinstance(error, KeyboardInterrupt):
            status = "interrupted"
        try:
            run.summary.update({"status": status, **({"error": str(error)} if error is not None else {})})
            run.finish(exit_code=int(status in ("failed", "interrupted")))
        except Exception as trouble:
            log.warning("W&B: %s", trouble, exc_info=trouble)

    def _finish(self, result: Mapping[str, Any]) -> None:
        import wandb

        run = self.experiment
        facts = ("seconds", "samples_per_second", "parameters", "batches", "epochs", "peak_memory_mb")
        run.summary.update({**result["metrics"], **self._best(), **{key: result[key] for key in facts}})
        media: dict[str, Any] = {}
        for path in sorted((self.directory / "figures").glob("*.png")):
            media[f"figures/{path.stem}"] = wandb.Image(str(path))
        for path in sorted((self.directory / "tables").glob("*.parquet")):
            media[f"tables/{path.stem}"] = _table(wandb, path)
        if result["arms"]:
            names = sorted({name for metrics in result["arms"].values() for name in metrics})
            rows: list[Any] = [[arm, *(metrics.get(name) for name in names)] for arm, metrics in result["arms"].items()]
            media["tables/arms"] = wandb.Table(columns=["arm", *names], data=rows)
        if media:
            run.log({**media, "batch": result["batches"], "epoch": result["epochs"]})
        path = self.directory / "checkpoints" / "last.ckpt"
        if self.checkpoint and path.exists():
            name = "-".join([*str(self.config.get("name") or "adhoc").split("/"), *path.parts[-4:-2]])
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type="model", metadata=dict(result["metrics"]))
            artifact.add_file(str(path))
            run.log_artifact(artifact)

    def _best(self) -> dict[str, float]:
        """Over the whole run, also over what was logged before it was resumed: metrics.csv has it all."""
        checkpoint: Mapping[str, Any] = (self.config.get("callbacks") or {}).get("checkpoint") or {}
        search: Mapping[str, Any] = self.config.get("search") or {}
        known = dict(self.directions)
        if checkpoint.get("monitor"):
            known[checkpoint["monitor"]] = checkpoint.get("mode", "min")
        if search.get("metric"):
            known[search["metric"]] = search["direction"][:3]
        rows = _csv(self.directory)
        best = {}
        for name in rows[0] if rows else ():
            way = known.get(name) or ("min" if name.startswith("val/") and name.endswith("loss") else None)
            values = [float(row[name]) for row in rows if row[name]] if way else []
            if values:
                best[f"best/{name}"] = max(values) if way == "max" else min(values)
        return best


def _csv(directory: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    path = directory / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows in a folder of W&B's, by its own reader."""
    for path in folder.glob("*.wandb"):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
            record = json.loads(line)
            if record["type"] == "history":
                yield record["history"]["item"]


def _table(wandb: Any, path: Path) -> Any:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    if table.num_rows > ROWS:
        log.warning("W&B: the first %d of %d rows of %s", ROWS, table.num_rows, path)
        table = table.slice(0, ROWS)
    columns = table.to_pydict()
    plain = [[_finite(value) for value in column] for column in columns.values()]
    return wandb.Table(columns=[*columns], data=[[*row] for row in zip(*plain, strict=True)])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scale(config: DictConfig) -> str:
    """``paper``, ``smoke`` (the experiment's smoke overrides hold), or ``laptop``."""
    smoke = [str(word).partition("=") for word in config.get("smoke") or []]
    keys = [(key, value) for key, _, value in smoke if "." in key]
    if keys and all(OmegaConf.select(config, key) == yaml.safe_load(value) for key, value in keys):
        return "smoke"
    return "paper" if str(config.get("name")).endswith("_paper") else "laptop"


# Login and network ---------------------------------------------------------------------------


def wandb_mode() -> tuple[str | None, str]:
    """The mode for ``wandb.init``, and why it is offline where the user did not ask for that."""
    if os.environ.get("WANDB_MODE"):
        return None, ""  # wandb reads it
    if not wandb_login():
        return "offline", "no login (wandb login)"
    if not _reachable():
        return "offline", f"{_server()} is not reachable"
    return "online", ""


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def wandb_login() -> bool:
    """Whether W&B would find a key: in the environment or in the netrc file."""
    import netrc

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(_server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable() -> bool:
    """Whether the server answers at all, through a proxy where one is set."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        urlopen(_server(), timeout=3).close()
    except HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True

"""The part of a run that every process takes: build, fit, test, measure."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from replicata.errors import RunError, UserError
from replicata.run import record as records
from replicata.run.callbacks.checkpoint import Checkpoint, latest, plain, seed_globals
from replicata.run.callbacks.monitor import Monitor
from replicata.run.faults import check_convolutions
from replicata.run.instantiate import instantiate
from replicata.run.logfile import quiet_lightning
from replicata.run.profiler import NoProfiler
from replicata.run.stages import StageResult
from replicata.streams import Stream, Streams


def build(config: DictConfig, streams: Streams, stages: Mapping[str, Any]) -> tuple[Any, Any]:
    """The data module and the method of a resolved config, on their streams."""
    allow = config.get("allow") or ()
    data = instantiate(config.data, "data", allow)
    data.streams = streams
    given: dict[str, Any] = {}
    with streams.init.as_global():
        if config.get("model") is not None:
            given["model"] = instantiate(config.model, "model", allow)
        for key in ("optimizer", "scheduler"):
            if config.get(key) is not None:
                given[key] = instantiate(config[key], key, allow)
        method = instantiate(config.method, "method", allow, **given)
    method.streams = streams
    method.stages = dict(stages)
    return data, method


@dataclass(frozen=True)
class Prepared:
    """The parts of a run, built and with the data at hand; nothing is written yet."""

    data: Any
    method: Any
    trainer: Any
    checkpoint: Checkpoint
    monitor: Monitor


def limit_threads(threads: int) -> None:
    """Give torch and every BLAS so many threads, however the run was launched: their number changes last bits."""
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)  # for libraries that are loaded later
    threadpool_limits(limits=threads)


def prepare(config: DictConfig, directory: Path, stages: Mapping[str, Path], rank: int = 0) -> Prepared:
    """Build data module, method and trainer, and load the data.

    Args:
        config: Resolved config.
        directory: The run's directory.
        stages: Directories of the finished stages.
        rank: This process among those of the run.

    Raises:
        UserError: for arguments that a constructor refuses, for data that is missing or damaged, and for what this
            machine cannot compute rightly.
    """
    quiet_lightning()
    limit_threads(config.threads)
    streams = Streams(config.seed, rank)
    seed_globals(Stream(config.seed, 1, rank).numpy.integers(2**31, size=3).tolist())
    data, method = build(config, streams, {name: StageResult(path) for name, path in stages.items()})
    checkpoint, monitor, trainer = _trainer(config, directory)
    check_convolutions(method, trainer.strategy.root_device)
    data.prepare_data()
    data.setup("fit")
    _fits(config, data, method)
    return Prepared(data, method, trainer, checkpoint, monitor)


def _fits(config: DictConfig, data: Any, method: Any) -> None:
    """Whether the batches hold what the method needs."""
    columns = getattr(data, "columns", None)
    needed: frozenset[str] = getattr(method, "inputs", frozenset())
    if columns is not None and not needed <= columns:
        names = [node._target_.rpartition(".")[2] for node in (config.method, config.data)]
        raise UserError(
            f"method and data do not fit: {names[0]} needs batches with {', '.join(sorted(needed - columns))},"
            f" and {names[1]} has {', '.join(sorted(columns))}; choose another data=... for it"
        )


def execute(config: DictConfig, directory: Path, prepared: Prepared, resume: bool) -> dict[str, Any]:
    """Fit and test; what is returned goes into the record.

    Args:
        config: Resolved config.
        directory: The run's directory.
        prepared: What :func:`prepare` built.
        resume: Whether to go on from the latest checkpoint.
    """
    dashboards = [logger for logger in prepared.trainer.loggers if hasattr(logger, "end")]
    try:
        result = _execute(config, directory, prepared, resume)
    except BaseException as error:
        for logger in dashboards:
            logger.end(None, error)
        raise
    for logger in dashboards:
        logger.end(result)
    return result


def _execute(config: DictConfig, directory: Path, prepared: Prepared, resume: bool) -> dict[str, Any]:
    began = time.perf_counter()
    data, method, trainer = prepared.data, prepared.method, prepared.trainer
    checkpoint, monitor = prepared.checkpoint, prepared.monitor

    path = latest(directory) if resume else None
    try:
        trainer.fit(method, datamodule=data, ckpt_path=path, weights_only=True)
    except SystemExit:  # Lightning's way of ending on Ctrl-C
        raise KeyboardInterrupt from None
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        if checkpoint._batches:
            raise
        names = ", ".join(
            f"{key} {config[key]._target_}" for key in ("method", "model", "data") if OmegaConf.select(config, key)
        )
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise RunError(f"the first batch failed, so these may not fit together: {names} ({what})", "misfit") from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    metrics = checkpoint.metrics
    if config.test != "none" and _overridden(method, "test_step"):
        if config.test == "best":
            checkpoint.load_best(method)
        trainer.test(method, datamodule=data, verbose=False)
        metrics = metrics | plain(trainer.callback_metrics)
    if not trainer.is_global_zero:
        return {}

    records.write_tables(directory, method.tables)
    seconds = monitor.earlier + time.perf_counter() - began
    result = {
        "status": "finished",
        "ended": records.now(),
        "seconds": round(seconds, 3),
        "fit_seconds": round(monitor.seconds, 3),
        "samples_per_second": round(monitor.samples * trainer.world_size / monitor.seconds, 1)
        if monitor.seconds
        else None,
        "batches": checkpoint._batches,
        "epochs": trainer.current_epoch,
        "parameters": sum(parameter.numel() for parameter in method.parameters()),
        "peak_memory_mb": _peak_memory(),
        "data": {
            "fingerprint": getattr(data, "fingerprint", ""),
            "target": config.data._target_,
            **getattr(data, "notes", {}),
        },
        "test": config.test,
        "metrics": dict(sorted(metrics.items())),
        "arms": method.panel,
    }
    if checkpoint.best is not None:
        result["selected"] = {key: checkpoint.best[key] for key in ("epoch", "score", "metrics")}
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise RunError(f"{', '.join(bad)} of the finished run is not finite", "not_finite")
    return result


def _trainer(config: DictConfig, directory: Path) -> tuple[Checkpoint, Monitor, Any]:
    """The trainer with its callbacks and loggers."""
    allow = config.get("allow") or ()
    callbacks = {
        name: instantiate(node, f"callbacks.{name}", allow) for name, node in (config.callbacks or {}).items() if node
    }
    checkpoint = callbacks.get("checkpoint")
    if not isinstance(checkpoint, Checkpoint):
        raise UserError("callbacks.checkpoint is needed: a run cannot be resumed or tested without it")
    further: list[Any] = []
    if config.get("search") is not None:
        from replicata.run.callbacks.pruning import pruning

        further = pruning(config)
    label = f"{config.get('name') or 'adhoc'} seed {config.seed}"
    show = bool(config.trainer.get("enable_progress_bar", True))
    monitor = Monitor(label, show)
    loggers = [
        instantiate(node, f"logger.{name}", allow, directory=str(directory))
        for name, node in (config.get("logger") or {}).items()
        if node
    ]
    settings = OmegaConf.create(OmegaConf.to_container(config.trainer))
    with open_dict(settings):
        settings.enable_progress_bar = False
        settings.enable_model_summary = False
    quiet = {} if OmegaConf.select(settings, "profiler") else {"profiler": NoProfiler()}
    trainer = instantiate(
        settings,
        "trainer",
        allow,
        **quiet,
        callbacks=[*callbacks.values(), *further, monitor],
        logger=loggers,
        default_root_dir=str(directory),
    )
    return checkpoint, monitor, trainer


def _overridden(method: Any, name: str) -> bool:
    from lightning.pytorch import LightningModule

    return getattr(type(method), name) is not getattr(LightningModule, name)


def _peak_memory() -> dict[str, float]:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = {"cpu": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    if torch.cuda.is_initialized():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak

"""One run, end to end: identity, check, stages, fit, test, record."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from replicata.errors import RunError, UserError
from replicata.run import record as records
from replicata.run.check import check, check_scalars
from replicata.run.fingerprint import code_fingerprint
from replicata.run.identity import Identity, code_targets, identify, resolved, stage_config
from replicata.run.launch import follows, launch, share
from replicata.run.lock import exclusive
from replicata.run.logfile import logfile
from replicata.run.machine import place

if TYPE_CHECKING:
    from replicata.run.stages import StageResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its directory, its record, and whether it was done now or before."""

    directory: Path
    record: Mapping[str, Any]
    reused: bool


def run(config: DictConfig) -> Outcome:
    """Carry out one composed config, or find that it is done.

    Raises:
        UserError: for a mistake in the config, data or device.
        RunError: if the run started and failed.
    """
    check_scalars(config)
    identity = identify(config)
    return run_in(config, identity, identity.directory(config.paths.outputs))


def run_in(config: DictConfig, identity: Identity, directory: Path) -> Outcome:
    """Carry out a config in the given directory."""
    if follows():
        return _follow(config, directory)
    fingerprint = code_fingerprint(code_targets(config), config.get("allow") or ())
    with exclusive(directory):
        try:
            outcome = _run_locked(config, identity, directory, fingerprint)
        finally:
            _sweep(directory)
        share()  # the others wait until the record is there
        return outcome


def _follow(config: DictConfig, directory: Path) -> Outcome:
    """Take part in a run whose lock and record are another process's."""
    from replicata.run.execute import prepare

    decision = share()
    if decision != "reuse":
        folders = {name: stage.directory for name, stage in _run_stages(config).items()}
        config = resolved(config)
        prepared = prepare(config, directory, folders, int(os.environ["RANK"]))
        share()  # from here on the run is a run
        with logfile(directory):
            launch(config, directory, folders, prepared, decision == "resume")
    share()
    return Outcome(directory, records.read_record(directory) or {}, reused=decision == "reuse")


def _run_locked(config: DictConfig, identity: Identity, directory: Path, fingerprint: str) -> Outcome:
    found = records.read_record(directory)
    resume = False
    if found is not None:
        same_code = found.get("code") == fingerprint
        if found["status"] == "finished" and same_code and not config.force:
            share("reuse")
            return Outcome(directory, found, reused=True)
        resume = found["status"] != "finished" and same_code and not config.force
        if not resume:
            _set_aside(directory, found)
    share("resume" if resume else "start")

    check(config)
    from replicata.run.execute import prepare

    stages = _run_stages(config)
    folders = {name: stage.directory for name, stage in stages.items()}
    config = resolved(config)
    prepared = prepare(config, directory, folders, int(os.environ.get("RANK", "0")))
    begun = _begin(config, identity, fingerprint, stages, found if resume else None)
    records.write_atomic(directory / "config.yaml", OmegaConf.to_yaml(config))
    with logfile(directory):
        try:  # from the moment that a record says `running`, whatever ends the run is written there
            records.write_record(directory, begun)
            share()
            with place(alone=getattr(prepared.method, "exclusive", False)):
                finished = begun | launch(config, directory, folders, prepared, resume)
            records.write_record(directory, finished)
        except BaseException as error:
            _note_failure(directory, begun, error)
            raise
    return Outcome(directory, finished, reused=False)


def _run_stages(config: DictConfig) -> dict[str, StageResult]:
    """Every stage as a run of its own, before the run that needs it."""
    if not config.stages:
        return {}
    from replicata.run.stages import StageResult

    results = {}
    for name in config.stages:
        outcome = run(stage_config(config, name))
        results[name] = StageResult(outcome.directory)
        log.info("stage %s: %s", name, outcome.directory)
    return results


def _begin(
    config: DictConfig,
    identity: Identity,
    fingerprint: str,
    stages: Mapping[str, StageResult],
    interrupted: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The part of the record that is known before the run starts."""
    from replicata.run.environment import git_state, hardware, versions

    return {
        "status": "running",
        "name": identity.name,
        "hash": identity.hash,
        "seed": identity.seed,
        "code": fingerprint,
        "started": interrupted["started"] if interrupted else records.now(),
        "resumed": (interrupted.get("resumed", 0) + 1) if interrupted else 0,
        "git": git_state(),
        "versions": versions(),
        "hardware": hardware(),
        "threads": config.threads,
        "stages": {
            name: {"directory": str(stage.directory), "hash": stage.record["hash"], "seconds": stage.record["seconds"]}
            for name, stage in stages.items()
        },
    }


def _note_failure(directory: Path, begun: Mapping[str, Any], error: BaseException) -> None:
    """Leave the reason in the record, unless the run is finished; on a full disk it keeps the state ``running``."""
    if (records.read_record(directory) or begun)["status"] == "finished":
        return
    interrupted = isinstance(error, KeyboardInterrupt)
    reason = {"message": "interrupted" if interrupted else first_line(error), "kind": getattr(error, "kind", "error")}
    if getattr(error, "step", None) is not None:
        reason["step"] = error.step  # type: ignore[attr-defined]
    status = "interrupted" if interrupted else "pruned" if reason["kind"] == "pruned" else "failed"
    log.error("%s", reason["message"], exc_info=error if status == "failed" else None)
    try:
        records.write_record(directory, {**begun, "status": status, "error": reason, "ended": records.now()})
    except RunError as second:
        log.error("%s", second)


def _set_aside(directory: Path, found: Mapping[str, Any]) -> None:
    """Keep what is replaced: move it beside the seeds as ``replaced/seed<k>-<when>``."""
    stamp = str(found.get("ended") or found.get("started") or "").replace(":", "")
    target = directory.parent / "replaced" / f"{directory.name}-{stamp}"
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{directory.name}-{stamp}-{number}")
    target.mkdir(parents=True)
    for path in directory.iterdir():
        if path.name not in (".lock", ".holder"):
            path.rename(target / path.name)


def _sweep(directory: Path) -> None:
    """Remove what a killed process was writing, and all of a run that never began."""
    for path in (*directory.rglob(".*.tmp"), directory / "checkpoints" / ".writing.ckpt"):
        path.unlink(missing_ok=True)
    left = {path.name for path in directory.iterdir()} - {".lock", ".holder"}
    if not left:
        for name in (".lock", ".holder"):
            (directory / name).unlink(missing_ok=True)
        for folder in (directory, *directory.parents[:4]):
            try:
                folder.rmdir()
            except OSError:  # the first folder that holds something
                break


def first_line(error: BaseException) -> str:
    """One line that says what went wrong."""
    text = str(error).strip().splitlines()
    name = type(error).__name__
    if isinstance(error, UserError | RunError):
        return " ".join(text) or name
    return f"{name}: {text[0]}" if text else name

"""What Hydra calls with each composed config: a picklable function, so that any launcher can carry it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicata.errors import RunError, UserError
from replicata.run.failures import Failure, note

failed: list[BaseException] = []  # what the command ends with: Hydra's main hands no results back


@dataclass(frozen=True)
class Job:
    """Hydra's task function.

    Args:
        dirs: Folders of config groups, for hints.
        tracing: Let exceptions through with their tracebacks.
    """

    dirs: Sequence[Path] = ()
    tracing: bool = False

    def __call__(self, config: Any) -> dict[str, float] | Failure:
        """The metrics of the run, or why there are none."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf, open_dict
        from omegaconf.errors import OmegaConfBaseException

        from replicata.run.explain import explain
        from replicata.run.identity import stage_config
        from replicata.run.launch import follows
        from replicata.run.runner import first_line, run

        hydra = HydraConfig.get()
        with open_dict(config):
            config.name = OmegaConf.select(config, "name")
            config.study = None  # says nothing about a single run, and is long to copy
        quiet = config.get("arm") is not None or follows()  # a study has a table of its own
        try:
            for name in config.only.split(".") if config.get("only") else ():
                config = stage_config(config, name)
            outcome = run(config)
        except Exception as caught:
            if self.tracing:
                raise
            error = explain(caught, [], self.dirs) if isinstance(caught, OmegaConfBaseException) else caught
            status = 2 if isinstance(error, UserError) else 1
            kind = error.kind if isinstance(error, UserError | RunError) else "error"
            failure = Failure(first_line(error), status, kind)
            failed.append(error)
            if hydra.mode == RunMode.MULTIRUN and not follows():  # else the command itself will say why
                note(list(hydra.overrides.task), failure)
            return failure
        if not quiet:
            report(outcome)
        return dict(outcome.record["metrics"])


def report(outcome: Any) -> None:
    """One line to standard output: the final metrics and where the run is."""
    metrics = outcome.record["metrics"]
    names = [name for name in metrics if name.startswith("test/")] or list(metrics)
    scores = "  ".join(f"{name} {metrics[name]:.4f}" for name in names[:6])
    before = " (finished before; force=true repeats it)" if outcome.reused else ""
    print(f"{scores}  {outcome.directory}{before}", flush=True)

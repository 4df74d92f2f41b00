"""One process of a run on several devices: ``python -m replicata.run.worker <directory> <task>``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from replicata.errors import RunError, UserError
from replicata.run.launch import FAILURE, RESULT
from replicata.run.record import write_atomic


def main(directory: Path, task: str) -> int:
    from replicata.run.execute import execute, prepare
    from replicata.run.logfile import logfile
    from replicata.run.runner import first_line

    rank = int(os.environ["RANK"])
    told = json.loads(task)
    config = cast(DictConfig, OmegaConf.load(directory / "config.yaml"))
    stages = {name: Path(path) for name, path in told["stages"].items()}
    with logfile(directory):
        try:
            result = execute(config, directory, prepare(config, directory, stages, rank), told["resume"])
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt):
                return 130
            if config.trace:
                raise
            failure = {
                "message": first_line(error),
                "user": isinstance(error, UserError),
                "kind": error.kind if isinstance(error, RunError) else "error",
                "step": error.step if isinstance(error, RunError) else None,
            }
            write_atomic(directory / FAILURE.format(rank=rank), json.dumps(failure))
            return 1
    if rank == 0:
        write_atomic(directory / RESULT, json.dumps(result))
    return 0


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is written; an ordinary exit under threads of gloo's aborts the process now and then

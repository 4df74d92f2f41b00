"""One process or several: a run on more than one device starts a process for each of them.

Lightning's own launcher starts the program's command line again, which under a sweep is the whole
sweep. Here each process is told one thing, the run's directory, and reads the resolved config there.
Where the processes were started from outside, by torchrun, each goes through the whole of a run: the first one
decides, checks and keeps the record, and the others do what it says.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from replicata.errors import RunError, UserError

if TYPE_CHECKING:
    from replicata.run.execute import Prepared

RESULT = ".result.json"
FAILURE = ".failure-{rank}.json"


def world(config: DictConfig) -> int:
    """Number of processes of the run on this machine."""
    devices = config.trainer.devices
    if isinstance(devices, int) and devices >= 0:
        return devices
    if config.trainer.accelerator == "cpu":
        return 1
    import torch

    available = max(torch.cuda.device_count(), 1)
    return available if isinstance(devices, int) or devices == "auto" else len(devices)


def started_outside() -> bool:
    """Whether this is one of several processes that torchrun has started for one run."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Whether another process of the run decides."""
    return started_outside() and os.environ["RANK"] != "0"


def share(value: Any = None) -> Any:
    """What the first process says, in all of them."""
    if not started_outside():
        return value
    import torch

    if not torch.distributed.is_initialized():  # Lightning takes what it finds
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave_group)
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _leave_group() -> None:
    """End the threads of the process group before the interpreter ends: an exit under them can abort the process."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def launch(
    config: DictConfig, directory: Path, stages: Mapping[str, Path], prepared: Prepared, resume: bool
) -> dict[str, Any]:
    """Execute the run in this process or in one for each device."""
    processes = world(config)
    if processes == 1 or "LOCAL_RANK" in os.environ:
        from replicata.run.execute import execute

        return execute(config, directory, prepared, resume)
    return _spawn(directory, stages, resume, processes)


def _spawn(directory: Path, stages: Mapping[str, Path], resume: bool, processes: int) -> dict[str, Any]:
    for stale in (RESULT, *(FAILURE.format(rank=rank) for rank in range(processes))):
        (directory / stale).unlink(missing_ok=True)
    task = json.dumps({"stages": {name: str(path) for name, path in stages.items()}, "resume": resume})
    shared = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the user's package is importable there, too
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    command = [sys.executable, "-m", "replicata.run.worker", str(directory), task]
    workers = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    try:
        while any(worker.poll() is None for worker in workers) and not any(worker.poll() for worker in workers):
            time.sleep(0.05)
    except KeyboardInterrupt:
        _end(workers)
        raise
    if any(worker.poll() for worker in workers):
        time.sleep(0.5)  # the others may be about to say why, too
        _end(workers)
        raise _reason(directory, workers)
    result = json.loads((directory / RESULT).read_text())
    (directory / RESULT).unlink()
    return result


def _end(workers: list[subprocess.Popen]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    for worker in workers:
        try:
            worker.wait(timeout=10)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _reason(directory: Path, workers: list[subprocess.Popen]) -> Exception:
    """The failure that the first process to fail left behind."""
    for rank in range(len(workers)):
        path = directory / FAILURE.format(rank=rank)
        if path.exists():
            failure = json.loads(path.read_text())
            path.unlink()
            if failure["user"]:
                return UserError(failure["message"])
            return RunError(failure["message"], failure["kind"], failure["step"])
    codes = ", ".join(f"process {rank}: {worker.returncode}" for rank, worker in enumerate(workers))
    return RunError(f"a process of the run died ({codes}); see {directory / 'log.txt'}", "killed")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

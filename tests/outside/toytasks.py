"""What launchers carry, without the weight of a run: a task function that says where it is, or ends badly."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from replicata.run.failures import Failure


def act(config: Any) -> Any:
    """Do what ``act`` says, then tell about the process."""
    hydra = HydraConfig.get()
    started = time.monotonic()
    match config.get("act", "tell"):
        case "die":  # as the kernel does it when memory runs out
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(3)
        case "refuse":
            return Failure("method.sigma must be >= 0", 2, "mistake")
        case "raise":
            raise Strange("a", "b")
        case "orphan":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(config.paths.cache).write_text(str(child.pid))
            os.kill(os.getpid(), signal.SIGSEGV)
        case "again":  # until it has been interrupted once
            if not Path(config.paths.cache).exists():
                Path(config.paths.cache).write_text(str(os.getpid()))
                time.sleep(600)
        case "sleep":
            time.sleep(0.3)
    print(f"job {hydra.job.num}")
    return {
        "number": hydra.job.num,
        "seed": config.seed,
        "process": os.getpid(),
        "group": os.getpgid(0),
        "daemon": multiprocessing.current_process().daemon,
        "parent": os.getppid(),
        "parent_threads": len(os.listdir(f"/proc/{os.getppid()}/task")) if sys.platform == "linux" else None,
        "torch": "torch" in sys.modules,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "started": started,
        "ended": time.monotonic(),
    }


class Strange(Exception):
    """An exception that does not survive pickling."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)

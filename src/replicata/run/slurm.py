"""``launcher=slurm``: a job array through submitit, one task a job."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from replicata.errors import UserError
from replicata.run.failures import Failure
from replicata.run.sweep import Answer, Need, Planned, Sweep, options_of, returned

PAUSE = 1.0  # seconds between looks at the results folder
SHARED = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")  # options that every executor knows


class Task:
    """What submitit calls on the node.

    Args:
        packed: The sweep.
    """

    def __init__(self, packed: bytes) -> None:
        self.packed = packed

    def __call__(self, number: int, overrides: Sequence[str]) -> bytes:
        # A task is a whole run. Lightning must not take it for one of several that SLURM has started for one run.
        os.environ.pop("SLURM_NTASKS", None)
        blob = Sweep(self.packed).perform(number, overrides, quiet=False)
        print(pickle.loads(blob).out, end="")
        return blob

    def checkpoint(self, *job: Any) -> Any:
        """What to do when the time is over or the node is wanted by others: queue again; the run then goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *job)


class Slurm:
    """The crew of ``launcher=slurm``.

    Args:
        options: The launcher's options; those that submitit's ``slurm`` executor has and we do not name
            are passed on.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError("launcher=slurm needs submitit: pip install 'replicata[slurm]'") from None
        options = options_of(options)
        self.executor, self.folder = options.pop("executor"), options.pop("folder")
        if self.executor not in ("slurm", "local"):
            raise UserError(f"hydra.launcher.executor must be slurm or local, got {self.executor!r}")
        self.workers = options.get("array_parallelism", 256)
        self.options = options
        self.submitted: list[Any] = []
        self._submitit = submitit

    @staticmethod
    def available() -> Sequence[str]:
        """GPUs are on the nodes, not here: a run on all devices gets as many as ``gpus_per_node`` says."""
        return ("0",)

    def run(self, packed: bytes, jobs: Sequence[Planned]) -> Iterator[tuple[Planned, Answer]]:
        executor = self._executor([job.need for job in jobs])
        task = Task(packed)
        with executor.batch():
            submitted = [executor.submit(task, job.number, job.overrides) for job in jobs]
        waiting = dict(zip(jobs, submitted, strict=True))
        self.submitted = list(submitted)
        while waiting:
            for job, handle in [(job, handle) for job, handle in waiting.items() if handle.done()]:
                del waiting[job]
                self.submitted.remove(handle)
                yield job, _result(job, handle)
            if waiting:
                time.sleep(PAUSE)

    def _executor(self, needs: Sequence[Need]) -> Any:
        options = dict(self.options)
        options.setdefault("cpus_per_task", max(need.cores for need in needs))
        if any(need.gpus for need in needs):
            options.setdefault("gpus_per_node", max(need.gpus for need in needs))
        timeouts = options.pop("max_num_timeout")
        try:
            executor = self._submitit.AutoExecutor(self.folder, self.executor, slurm_max_num_timeout=timeouts)
            executor.update_parameters(**{k if k in SHARED else f"slurm_{k}": v for k, v in options.items()})
        except (RuntimeError, NameError, AssertionError) as error:
            raise UserError(f"launcher=slurm: {' '.join(str(error).split())}") from None
        return executor

    def stop(self) -> None:
        for handle in self.submitted:
            handle.cancel(check=False)


def _result(job: Planned, handle: Any) -> Answer:
    error = handle.exception()
    if error is None:
        return pickle.loads(handle.result())
    logs = handle.paths.stderr
    failure = Failure(f"SLURM job {handle.job_id}: {handle.state}; see {logs}", 1, "killed")
    return Answer(returned(job.overrides, failure))

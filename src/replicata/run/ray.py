"""``launcher=ray``: one remote task a job, on a Ray that is started here or on a cluster."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from replicata.errors import UserError
from replicata.run.failures import Failure
from replicata.run.sweep import Answer, Planned, Sweep, options_of, returned


@lru_cache(maxsize=1)
def _sweep(packed: bytes) -> Sweep:
    return Sweep(packed)


def perform(packed: bytes, number: int, overrides: Sequence[str]) -> bytes:
    """What a Ray worker does; Ray uses its processes again, so the imports are paid once in each."""
    return _sweep(packed).perform(number, overrides)


class Ray:
    """The crew of ``launcher=ray``.

    Args:
        options: Arguments of ``ray.init``; ``address`` is that of a running cluster.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("launcher=ray needs Ray: pip install 'replicata[ray]'") from None
        self.options = options_of(options)
        self.pending: dict[Any, Planned] = {}
        self._ray = ray

    @property
    def workers(self) -> int:
        self._start()
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    @staticmethod
    def available() -> Sequence[str]:
        """The cluster's GPUs are not known here: a run gets as many as ``trainer.devices`` says, else one."""
        return ("0",)

    def run(self, packed: bytes, jobs: Sequence[Planned]) -> Iterator[tuple[Planned, Answer]]:
        self._start()
        largest = max(int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes())
        cores = max(job.need.cores for job in jobs)
        if cores > largest and "address" not in self.options:  # a cluster may grow, this machine does not
            raise UserError(f"launcher=ray: a run takes {cores} cores, and Ray has {largest} here; lower threads")
        shared = self._ray.put(packed)
        remote = self._ray.remote(perform)
        for job in jobs:
            task = remote.options(
                num_cpus=job.need.cores, num_gpus=job.need.gpus, max_retries=0, name=" ".join(job.overrides)
            )
            self.pending[task.remote(shared, job.number, job.overrides)] = job
        while self.pending:
            (reference,), _ = self._ray.wait(list(self.pending), num_returns=1)
            job = self.pending.pop(reference)
            yield job, self._result(job, reference)

    def _result(self, job: Planned, reference: Any) -> Answer:
        try:
            return pickle.loads(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            failure = Failure(f"Ray: {type(error).__name__}: {reason}", 1, "killed")
            return Answer(returned(job.overrides, failure))

    def _start(self) -> None:
        if not self._ray.is_initialized():
            self._ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **self.options)

    def stop(self) -> None:
        for reference in self.pending:
            self._ray.cancel(reference)
        self.pending.clear()

"""``launcher=local``: worker processes of this machine that are used again for the next run.

A worker pays for the imports once. Under Linux it is forked from a server process that has torch and Lightning
imported and has never started a thread or touched a GPU; elsewhere, and for runs on GPUs, it is started afresh.
Each worker leads a process group of its own, so that a run's own processes end with it, and ends with its parent
however that ends.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from multiprocessing import connection as connections
from multiprocessing import resource_tracker
from typing import Any

from omegaconf import DictConfig, OmegaConf

from replicata.errors import UserError
from replicata.run.sweep import Answer, Need, Planned, Sweep, cores, death, gpus, need_of, returned

FORK = "forkserver" if sys.platform == "linux" else "spawn"
PRELOAD = "replicata.run.preload"
GRACE = 10.0  # seconds that an interrupted run has to write its record


# The worker ---------------------------------------------------------------------------------


def serve(connection: Any, environment: Mapping[str, str | None]) -> None:
    """What a worker does: one job after the other until the other end is closed."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _set(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sweep, current = None, None
    try:
        import_module(PRELOAD)
        gc.freeze()  # what is imported is never garbage, and a look at it would copy what a fork shares
        while True:
            packed, number, overrides = connection.recv()
            if packed is not None and packed != current:
                sweep, current = Sweep(packed), packed
            assert sweep is not None
            connection.send_bytes(sweep.perform(number, overrides))
            gc.collect()  # a trainer is full of cycles and may hold a GPU's memory
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


def _end_with_parent() -> None:
    """Take the whole process group down when the parent is gone: nobody would read the results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


class Worker:
    """A worker as its parent sees it.

    Args:
        need: What the jobs take that it is made for.
        devices: The GPUs that it sees.
    """

    def __init__(self, need: Need, devices: Sequence[str] = ()) -> None:
        self.threads, self.devices = need.threads, tuple(devices)
        self.job: Planned | None = None
        self._packed: bytes | None = None
        environment = thread_limits(need.threads)
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        method = "spawn" if devices else FORK
        context: Any = multiprocessing.get_context(method)
        self.connection, theirs = context.Pipe()
        own = environment | {"PYTHONSAFEPATH": os.environ.get("PYTHONSAFEPATH")}
        self.process = context.Process(target=serve, args=(theirs, own), name="replicata worker")
        if method == "forkserver":
            start_server(need.threads)
            self.process.start()  # waits for the server's imports, and Ctrl-C is heard meanwhile
        else:
            with _starting(environment):
                self.process.start()
        theirs.close()

    def suits(self, need: Need) -> bool:
        return self.threads == need.threads and len(self.devices) == need.gpus

    def give(self, packed: bytes, job: Planned) -> None:
        """Hand over a job, with the sweep it belongs to if that is another one than before."""
        self.connection.send((None if packed == self._packed else packed, job.number, job.overrides))
        self._packed, self.job = packed, job

    def take(self) -> Answer | None:
        """What came of the job; ``None`` if the worker is still at it."""
        job, alive = self.job, self.alive  # in this order: what a worker sent before it ended is there to be read
        assert job is not None
        if self.connection.poll():
            with suppress(EOFError, ConnectionError):
                answer = pickle.loads(self.connection.recv_bytes())
                self.job = None
                return answer
        elif alive:
            return None
        self.process.join(GRACE)
        code = self.process.exitcode
        self.end()
        return Answer(returned(job.overrides, death(code)))

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def close(self) -> None:
        """Ask an idle worker to end."""
        self.connection.close()

    def interrupt(self) -> None:
        """Ctrl-C for this worker."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT)

    def end(self) -> None:
        """Kill it, and the processes that its run has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


def thread_limits(threads: int) -> dict[str, str]:
    """Environment variables that numerical libraries read when they are imported."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def start_server(threads: int) -> None:
    """Start the process that workers are forked from, unless there is one; its imports go on in the background."""
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload([PRELOAD])
    with _starting(thread_limits(threads)):
        forkserver.ensure_running()


@contextmanager
def _starting(environment: Mapping[str, str]) -> Iterator[None]:
    """Give a process that is started here its environment, and leave Ctrl-C to this process."""
    environment = {**environment, "PYTHONSAFEPATH": "1"}  # a file of the working folder must not hide a module
    before = {key: os.environ.get(key) for key in environment}
    resource_tracker.ensure_running()  # would be started on the way, and unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    _set(environment)
    try:
        yield
    finally:
        _set(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _set(environment: Mapping[str, str | None]) -> None:
    for key, value in environment.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


# The pool -----------------------------------------------------------------------------------


class Pool:
    """The workers of this process; they stay for the next batch, study or trial until the process ends."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        atexit.register(self.close)

    def run(self, packed: bytes, jobs: Sequence[Planned], limit: int) -> Iterator[tuple[Planned, Answer]]:
        """Carry out jobs, at most ``limit`` at once and no more than cores and GPUs allow."""
        waiting = deque(jobs)
        while waiting or self._busy():
            while waiting and (worker := self._seat(waiting[0].need, limit)) is not None:
                try:
                    worker.give(packed, waiting[0])
                except OSError:  # it died while it was idle
                    self._remove(worker)
                else:
                    waiting.popleft()
            yield from self._answers()

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _seat(self, need: Need, limit: int) -> Worker | None:
        """A worker for the next job, or ``None`` if it has to wait."""
        busy = self._busy()
        taken = sum(worker.job.need.cores for worker in busy if worker.job is not None)
        if busy and (len(busy) >= limit or taken + need.cores > cores()):
            return None
        for worker in [worker for worker in self.workers if worker.job is None]:
            if worker.alive and worker.suits(need):
                return worker
            self._remove(worker)
        held = {name for worker in self.workers for name in worker.devices}
        free = [name for name in gpus() if name not in held] if need.gpus else []
        if len(free) < need.gpus:
            return None
        self.workers.append(Worker(need, free[: need.gpus]))
        return self.workers[-1]

    def _answers(self) -> Iterator[tuple[Planned, Answer]]:
        """Wait until a job has ended, one way or the other."""
        busy = self._busy()
        connections.wait([thing for worker in busy for thing in (worker.connection, worker.process.sentinel)])
        for worker in busy:
            job = worker.job
            answer = worker.take()
            if answer is None or job is None:
                continue
            if not worker.alive:
                self.workers.remove(worker)
            yield job, answer

    def _remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.end()

    def stop(self) -> None:
        """Interrupt the runs, give them time to say so in their records, and end all workers."""
        try:
            busy = self._busy()
            for worker in busy:
                worker.interrupt()
            deadline = time.monotonic() + GRACE
            for worker in busy:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            self._end_all()

    def close(self) -> None:
        """Send idle workers home."""
        for worker in self.workers:
            worker.close()
        deadline = time.monotonic() + 2
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        self._end_all()

    def _end_all(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers.clear()


@cache
def shared() -> Pool:
    """The pool of this process."""
    return Pool()


# The launcher -------------------------------------------------------------------------------


class Local:
    """The crew of ``launcher=local``.

    Args:
        workers: Runs at once; ``None``: as many as fit.
        config: The sweep's config.
    """

    available = staticmethod(gpus)

    def __init__(self, workers: int | None, config: DictConfig) -> None:
        self.wanted = workers
        self.need = need_of(config)
        self.workers = at_once(self.need, workers)
        own = [OmegaConf.select(config, f"{key}._target_") for key in ("method", "model", "data")]
        modules = {target.rpartition(".")[0] for target in own if str(target).startswith("replicata.")}
        os.environ["REPLICATA_PRELOAD"] = " ".join(sorted(modules))  # see preload.py

    def warm_up(self) -> None:
        """Begin with the imports."""
        if FORK == "forkserver" and not self.need.gpus:
            start_server(self.need.threads)

    def run(self, packed: bytes, jobs: Sequence[Planned]) -> Iterator[tuple[Planned, Answer]]:
        for need in {job.need for job in jobs}:
            at_once(need, self.wanted)
        return shared().run(packed, jobs, self.wanted or cores())

    def stop(self) -> None:
        shared().stop()


def at_once(need: Need, wanted: int | None) -> int:
    """How many runs fit on this machine at once, or as many as wanted.

    Raises:
        UserError: if that is more than fit.
    """
    room = cores() // need.cores
    have = f"this machine has {cores()}"
    takes = f"{need.cores} core{'s' * (need.cores > 1)} (threads={need.threads})"
    if need.gpus:
        room = min(room, len(gpus()) // need.gpus)
        have += f", and {len(gpus())} GPU{'s' * (len(gpus()) != 1)}"
        takes += f" and {need.gpus} GPU{'s' * (need.gpus > 1)}"
    if room < 1:
        raise UserError(f"launcher=local: a run takes {takes}, and {have}; lower threads or trainer.devices")
    if wanted is None:
        return room
    if wanted < 1:
        raise UserError(f"hydra.launcher.workers must be at least 1, got {wanted}")
    if wanted > room:
        raise UserError(
            f"hydra.launcher.workers={wanted} is more than fit: a run takes {takes}, {have}; at most {room} at once"
        )
    return wanted

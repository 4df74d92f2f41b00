"""Jobs of a Hydra sweep in other processes: what travels there, what comes back, how much of a machine a job takes.

The launchers (``launcher=local|slurm|ray``) differ only in where the processes are. Each has a :class:`Crew`; the
rest, which is here, does what Hydra's own launchers do: a job composes its config where it runs, with the
callbacks, resolvers and plugins of the process that started the sweep.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from replicata.errors import RunError
from replicata.run.failures import Failure, note

# Overrides that can change what a job takes.
SHAPING = {"experiment", "accelerator", "debug", "threads", "trainer", "trainer.accelerator", "trainer.devices"}


# What a job takes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """What a job occupies while it runs.

    Attributes:
        threads: Threads of each of its processes.
        cores: Threads of all its processes.
        gpus: GPUs.
    """

    threads: int = 1
    cores: int = 1
    gpus: int = 0


@cache
def cores() -> int:
    """Cores that this process may use: affinity and a container's quota count, not the machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return count


@cache
def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    import torch

    return tuple(str(index) for index in range(torch.cuda.device_count()))


def need_of(config: DictConfig, available: Callable[[], Sequence[str]] = gpus) -> Need:
    """What a run of this config takes; values that make no sense count as 1, the run itself will refuse them.

    Args:
        config: Composed config.
        available: The GPUs that there are; asked only for a run on GPUs.
    """
    keys = ("threads", "trainer.accelerator", "trainer.devices")
    threads, kind, devices = (OmegaConf.select(config, key) for key in keys)
    threads = threads if isinstance(threads, int) and threads > 0 else 1
    count = devices if isinstance(devices, int) else len(devices) if OmegaConf.is_list(devices) else -1
    if kind in ("gpu", "cuda") and (found := available()):
        count = count if count > 0 else len(found)
        return Need(threads, threads * count, count)
    if kind == "mps":  # there is one such device
        return Need(threads, max(threads, cores()))
    return Need(threads, threads * max(count, 1))


class Needs:
    """What the jobs of a sweep take; a job is composed only if its overrides can make a difference.

    Args:
        config: The sweep's own config.
        loader: Hydra's config loader.
        available: See :func:`need_of`.
    """

    def __init__(self, config: DictConfig, loader: Any, available: Callable[[], Sequence[str]] = gpus) -> None:
        self.config, self.loader, self.available = config, loader, available
        self._known: dict[tuple[str, ...], Need] = {}

    def __call__(self, overrides: Sequence[str]) -> Need:
        key = tuple(word for word in overrides if word.lstrip("+~").partition("=")[0] in SHAPING)
        if key not in self._known:
            try:
                config = self.loader.load_sweep_config(self.config, list(overrides))
            except (HydraException, OmegaConfBaseException):  # the job will say what is wrong with it
                config = self.config
            self._known[key] = need_of(config, self.available)
        return self._known[key]


# In the other process -----------------------------------------------------------------------


def job_config(config: DictConfig) -> DictConfig:
    """The sweep's config as its jobs need it: options of the launcher mean nothing to a job, which may have none."""
    config = copy.deepcopy(config)
    own = config.hydra.overrides
    own.hydra = [word for word in own.hydra if not word.lstrip("+~").startswith(("hydra.launcher", "hydra/launcher"))]
    return config


def pack(config: DictConfig, context: Any, task: Callable[[Any], Any]) -> bytes:
    """All that a process needs to carry out jobs of a sweep."""
    import cloudpickle

    state = cloudpickle.dumps((config, context, task, Singleton.get_state()))
    return pickle.dumps((list(sys.path), os.getcwd(), state))


class Sweep:
    """A sweep in a process that carries out jobs of it.

    Args:
        packed: From :func:`pack`.
    """

    def __init__(self, packed: bytes) -> None:
        path, folder, state = pickle.loads(packed)
        sys.path.extend(entry for entry in path if entry not in sys.path)  # the user's package is importable here, too
        os.chdir(folder)
        self.config, self.context, self.task, singletons = pickle.loads(state)
        setup_globals()
        Singleton.set_state(singletons)

    def perform(self, number: int, overrides: Sequence[str], quiet: bool = True) -> bytes:
        """Carry out one job; returns an :class:`Answer` as bytes.

        Args:
            number: The job's number in the sweep.
            overrides: Its overrides.
            quiet: Whether nothing looks at this process's output: no progress lines, and errors go into the answer.
        """
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err) if quiet else nullcontext():
            result = self._perform(number, overrides, quiet)
        return _dump(Answer(result, out.getvalue(), err.getvalue()))

    def _perform(self, number: int, overrides: Sequence[str], quiet: bool) -> JobReturn:
        try:
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            from replicata.run.compose import search_dirs
            from replicata.run.explain import explain

            reason = explain(error, overrides, getattr(self.task, "dirs", None) or search_dirs())
            return returned(overrides, Failure(str(reason), 2, reason.kind))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            if quiet and "trainer" in config:
                config.trainer.enable_progress_bar = False
        HydraConfig.instance().set_config(config)
        result = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if result.status == JobStatus.FAILED:  # a traceback does not travel
            traceback.print_exception(result._return_value)
        return result


@dataclass(frozen=True)
class Answer:
    """What comes back: the result, and what the job printed."""

    result: JobReturn
    out: str = ""
    err: str = ""


def returned(overrides: Sequence[str], value: Any) -> JobReturn:
    """What Hydra's sweepers expect of a job that returned ``value``."""
    return JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=value)


def _dump(answer: Answer) -> bytes:
    """The answer as bytes that the other side can certainly read, whatever exception it holds."""
    import cloudpickle

    result = answer.result
    try:
        blob = cloudpickle.dumps(answer)
        if result.status == JobStatus.FAILED:
            pickle.loads(blob)
    except Exception:
        error = result._return_value
        result.return_value = RunError(f"{type(error).__name__}: {error}")
        result.status = JobStatus.FAILED
        blob = cloudpickle.dumps(answer)
    return blob


def death(code: int | None) -> Failure:
    """Why a process that ended on its own has no result.

    Args:
        code: Its exit status, the signal's number with a minus sign if it was killed by one.
    """
    import signal

    if code is None or code >= 0:
        return Failure(f"its process ended by itself with status {code}", 1, "killed")
    name = f", {signal.Signals(-code).name}" if -code in set(signal.Signals) else ""
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return Failure(f"its process was killed by signal {-code}{name}{hint}", 1, "killed")


# In the process that started the sweep ------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """One job of a batch."""

    number: int
    overrides: tuple[str, ...]
    need: Need


class Crew(Protocol):
    """Where jobs are carried out.

    Attributes:
        workers: Jobs at once.
    """

    @property
    def workers(self) -> int: ...

    @staticmethod
    def available() -> Sequence[str]:
        """The GPUs that the runs may use."""

    def run(self, packed: bytes, jobs: Sequence[Planned]) -> Iterator[tuple[Planned, Answer]]:
        """Carry out the jobs; answers come in the order in which the jobs end."""

    def stop(self) -> None:
        """End what is running."""


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """``launch`` of a Hydra launcher with a crew.

    Args:
        launcher: Has ``config``, ``context``, ``task``, ``crew``, and ``on_result``: called with the number
            and the result of each job as it ends; what it raises ends the sweep.
        job_overrides: Overrides of each job.
        first: Number of the first one.
    """
    setup_globals()
    config = job_config(launcher.config)
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    needs = Needs(config, launcher.context.config_loader, launcher.crew.available)
    jobs = [Planned(first + k, tuple(words), needs(words)) for k, words in enumerate(job_overrides)]
    results: dict[int, JobReturn] = {}
    if not jobs:
        return []
    try:
        for job, answer in launcher.crew.run(pack(config, launcher.context, launcher.task), jobs):
            _note(job, answer)
            results[job.number] = answer.result
            if launcher.on_result is not None:
                launcher.on_result(job.number, answer.result)
    except BaseException:
        launcher.crew.stop()
        raise
    return [results[job.number] for job in jobs]


def _note(job: Planned, answer: Answer) -> None:
    """Print what the job printed, and say that it failed, if it did."""
    for text, stream in ((answer.out, sys.stdout), (answer.err, sys.stderr)):
        if text:
            print(text, end="", file=stream, flush=True)
    result = answer.result
    if result.status != JobStatus.COMPLETED or not isinstance(result.return_value, Failure):
        return
    note(job.overrides, result.return_value, printed=result.return_value.message in answer.err)


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a launcher as plain values, without those that were left open."""
    plain = OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if value is not None}

"""Hydra launchers: ``launcher=local``, ``slurm`` and ``ray``.

Nothing heavy is imported at the top: Hydra imports every plugin at every start, and not into ``sys.modules``, so a
dataclass here cannot have postponed annotations.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CrewLauncher(Launcher):
    """A launcher whose jobs run in other processes.

    Attributes:
        on_result: Called with number and result of each job as it ends, if set.
    """

    on_result: Callable[[int, JobReturn], None] | None = None

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config
        self.crew = self.recruit()

    @abstractmethod
    def recruit(self) -> Any:
        """The crew that carries the jobs out: a ``replicata.run.sweep.Crew``."""

    @property
    def workers(self) -> int:
        """Jobs at once."""
        return self.crew.workers

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from replicata.run.sweep import launch

        return launch(self, job_overrides, initial_job_idx)


@dataclass
class LocalConf:
    """Options of ``launcher=local``; see ``configs/launcher``."""

    _target_: str = "hydra_plugins.replicata_launchers.LocalLauncher"
    workers: int | None = None


class LocalLauncher(CrewLauncher):
    """Worker processes of this machine."""

    def recruit(self) -> Any:
        from replicata.run.pool import Local

        crew = Local(self.options["workers"], self.config)
        # Hydra's own sweeper composes all jobs before it hands over the first: time enough for the imports.
        if str(self.config.hydra.sweeper._target_).endswith(".BasicSweeper"):
            crew.warm_up()
        return crew


@dataclass
class SlurmConf:
    """Options of ``launcher=slurm``; see ``configs/launcher``."""

    _target_: str = "hydra_plugins.replicata_launchers.SlurmLauncher"
    executor: str = "slurm"
    folder: str = "${hydra.sweep.dir}/slurm"
    name: str = "replicata"
    timeout_min: int = 60
    max_num_timeout: int = 3
    mem_gb: float | None = None
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    array_parallelism: int = 256
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    setup: list[str] | None = None
    signal_delay_s: int = 120
    additional_parameters: dict[str, Any] = field(default_factory=dict)


class SlurmLauncher(CrewLauncher):
    """A job array of a SLURM cluster."""

    def recruit(self) -> Any:
        from replicata.run.slurm import Slurm

        return Slurm(self.options)


@dataclass
class RayConf:
    """Options of ``launcher=ray``; see ``configs/launcher``."""

    _target_: str = "hydra_plugins.replicata_launchers.RayLauncher"
    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    runtime_env: dict[str, Any] | None = None


class RayLauncher(CrewLauncher):
    """Tasks of a Ray cluster."""

    def recruit(self) -> Any:
        from replicata.run.ray import Ray

        return Ray(self.options)


for _name, _node in {"local": LocalConf, "slurm": SlurmConf, "ray": RayConf}.items():
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node, provider="replicata")

"""Hydra sweepers: a study's (``hydra/sweeper=study``, or ``replicata study``) and Optuna's (the group ``search``).

Nothing heavy is imported at the top: Hydra imports every plugin at every start, and not into ``sys.modules``, so a
dataclass here cannot have postponed annotations.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LaunchingSweeper(Sweeper):
    """A sweeper that hands its jobs to the launcher of the config."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.loader = hydra_context.config_loader
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @abstractmethod
    def sweep(self, arguments: list[str]) -> Any:
        """Carry out what the command line says."""


@dataclass
class StudySweeperConf:
    """Options of a study.

    Attributes:
        arms, claims: Only these, and what they need.
        seeds: Instead of the study's own number.
        on_error: ``continue`` or ``stop`` after a run that failed.
        retries: How often a run that raised or was killed is tried again, instead of ``study.retries``.
        reuse: ``same_code``, or ``any`` to accept runs finished by other code.
        dry_run: List the runs and their state.
        watch: Only look on while another process carries the study out.
        smoke: The runs have the experiment's smoke overrides: the verdicts mean nothing.
        tune: Try the grids of ``study.tuning`` instead of running the study.
        commit_results: Write ``results/<family>/<slug>.json``.
    """

    _target_: str = "hydra_plugins.replicata_sweepers.StudySweeper"
    arms: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    seeds: int | None = None
    on_error: str = "continue"
    retries: int | None = None
    reuse: str = "same_code"
    dry_run: bool = False
    watch: bool = False
    smoke: bool = False
    tune: bool = False
    commit_results: bool = False


class StudySweeper(LaunchingSweeper):
    """Carries out the study of an experiment, or tunes its arms; see :class:`StudySweeperConf`."""

    def sweep(self, arguments: list[str]) -> Any:
        if self.options["tune"]:
            from replicata.board.tuning import carry_out_tuning

            return carry_out_tuning(self, arguments)
        from replicata.board.study import carry_out_study

        return carry_out_study(self, arguments)


@dataclass
class OptunaSweeperConf:
    """It has no options of its own: a search is described by the run config's ``search`` node."""

    _target_: str = "hydra_plugins.replicata_sweepers.OptunaSweeper"


class OptunaSweeper(LaunchingSweeper):
    """Proposes trials, hands them to the launcher, and tells Optuna what came out."""

    def sweep(self, arguments: list[str]) -> Any:
        from replicata.run.search import search

        return search(self, arguments)


for _name, _node in {"study": StudySweeperConf, "replicata_optuna": OptunaSweeperConf}.items():
    ConfigStore.instance().store(group="hydra/sweeper", name=_name, node=_node, provider="replicata")

"""How a search proposes: its settings, and its Optuna study on the journal in the search's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from replicata.errors import UserError

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "random", "grid", "cmaes")
PRUNERS = ("none", "median", "halving")


@dataclass(frozen=True)
class Settings:
    """The ``search`` node without its space.

    Args:
        metric: Of the finished run; ``pruner`` compares it epoch by epoch.
        direction: ``maximize`` or ``minimize``.
        sampler: One of ``SAMPLERS``.
        trials: How many there are in the end; for a grid, ``None`` is all of it.
        parallel: Trials in a batch.
        seed: Of the sampler.
        pruner: One of ``PRUNERS``.
        min_epochs: Epochs that every trial gets.
        min_trials: Finished trials before ``median`` stops one.
    """

    metric: str
    direction: Literal["maximize", "minimize"]
    sampler: str
    trials: int | None
    parallel: int
    seed: int
    pruner: str
    min_epochs: int
    min_trials: int

    @classmethod
    def of(cls, node: Mapping[Any, Any]) -> Settings:
        """Read and check a ``search`` node.

        Raises:
            UserError: for a value that makes no sense.
        """
        pruner = node["pruner"]
        for key, value, known in (
            ("direction", node["direction"], ("maximize", "minimize")),
            ("sampler", node["sampler"], SAMPLERS),
            ("pruner.kind", pruner["kind"], PRUNERS),
        ):
            if value not in known:
                raise UserError(f"search.{key} must be one of {', '.join(known)}, got {value!r}")
        numbers = {key: node[key] for key in ("trials", "parallel", "seed")}
        numbers |= {f"pruner.{key}": pruner[key] for key in ("min_epochs", "min_trials")}
        for key, value in numbers.items():
            if key == "trials" and value is None and node["sampler"] == "grid":
                continue
            low = 0 if key == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UserError(f"search.{key} must be a whole number of at least {low}, got {value!r}")
        return cls(
            metric=str(node["metric"]),
            direction=node["direction"],
            sampler=node["sampler"],
            trials=node["trials"],
            parallel=node["parallel"],
            seed=node["seed"],
            pruner=pruner["kind"],
            min_epochs=pruner["min_epochs"],
            min_trials=pruner["min_trials"],
        )


def need_optuna(settings: Settings) -> None:
    """Say which extra is missing."""
    packages = ("optuna", "cmaes") if settings.sampler == "cmaes" else ("optuna",)
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"a search needs {' and '.join(missing)}: pip install 'replicata[search]'")


def open_study(folder: Path, settings: Settings) -> optuna.Study:
    """The study in the folder's journal; begun where there is none."""
    need_optuna(settings)
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        study_name="search",
        direction=settings.direction,
        pruner=_pruner(settings),
        load_if_exists=True,
    )


def _pruner(settings: Settings) -> optuna.pruners.BasePruner:
    import optuna

    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(settings.min_trials, n_warmup_steps=settings.min_epochs)
    if settings.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=settings.min_epochs)
    return optuna.pruners.NopPruner()


def sampler_of(settings: Settings, number: int) -> optuna.samplers.BaseSampler:
    """A new sampler for each trial, so that a search that goes on draws what it would have drawn."""
    import numpy as np
    import optuna

    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    if settings.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if settings.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return optuna.samplers.RandomSampler(seed=seed)  # the points of a grid wait in the journal


def mend(folder: Path) -> None:
    """Remove what a killed process left: half a line at the end of the journal, and its lock."""
    path = folder / "journal.log"
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
    (folder / "journal.log.lock").unlink(missing_ok=True)

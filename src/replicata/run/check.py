"""Everything that can be found wrong with a config before the run begins."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from replicata.errors import UserError, nearest
from replicata.run.explain import PACKAGE
from replicata.run.identity import resolved
from replicata.run.instantiate import instantiate, locate

GIVEN = {  # what the runner passes to each node, so the config need not
    "method": {"model", "optimizer", "scheduler"},
    "trainer": {"callbacks", "logger", "default_root_dir"},
    "logger": {"directory"},
}
CHOICES = {"test": ("last", "best", "none")}
GROUPS = {"paths", "data", "model", "method", "optimizer", "scheduler", "trainer", "callbacks", "logger"}
SETTINGS = {
    "name",
    "seed",
    "threads",
    "test",
    "force",
    "trace",
    "allow",
    "only",
    "stages",
    "arm",
    "paper",
    "smoke",
    "study",
}


def check(config: DictConfig) -> None:
    """Stop at the first mistake.

    Raises:
        UserError: one line with the key, what is wrong, and what would be right.
    """
    _keys(config)
    config = resolved(config)
    allow = list(config.get("allow") or [])
    for key in ("data", "model", "method", "optimizer", "trainer"):
        node = config.get(key)
        if node is None:
            if key in ("data", "method", "trainer"):
                raise UserError(f"{key} is needed: choose one with {key}=...")
            continue
        check_node(node, key, allow, GIVEN.get(key, set()))
    if config.get("scheduler") is not None:
        if "scheduler" not in config.scheduler:
            raise UserError("scheduler.scheduler is needed: a node with _target_ and _partial_: true")
        check_node(config.scheduler.scheduler, "scheduler.scheduler", allow, set())
    for group in ("callbacks", "logger"):
        for name, node in (config.get(group) or {}).items():
            if node is not None:
                check_node(node, f"{group}.{name}", allow, GIVEN.get(group, set()))
    _machine(config)
    _optimizer(config, allow)
    _combination(config, allow)


def _keys(config: DictConfig) -> None:
    """A misspelt key at the top of a config file would be read by nothing.

    A key of the user's own may be there for interpolations, and is unread in the arms that override these.
    """
    known = GROUPS | SETTINGS
    content = OmegaConf.to_yaml(config)
    for key in (str(key) for key in config if key not in known):
        if key == "experiment":  # Hydra puts what has no package under the name of its group
            raise UserError(f"experiment={config.get('name')}: {PACKAGE}")
        close = get_close_matches(key, known, n=1, cutoff=0.8)
        if close and not re.search(rf"\$\{{(oc\.\w+:)?\.*{re.escape(key)}\b", content):
            raise UserError(f"{key} is read by nothing; did you mean {close[0]!r}?")


def check_scalars(config: DictConfig) -> None:
    """The run's own settings: seed, threads, test and the like."""
    for key, low in (("seed", 0), ("threads", 1)):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise UserError(f"{key} must be a whole number of at least {low}, got {value!r}")
    for key, allowed in CHOICES.items():
        if config.get(key) not in allowed:
            raise UserError(f"{key} must be one of {', '.join(allowed)}, got {config.get(key)!r}")
    for key in ("force", "trace"):
        if not isinstance(config.get(key), bool):
            raise UserError(f"{key} must be true or false, got {config.get(key)!r}")
    if not isinstance(OmegaConf.to_container(config).get("allow"), list):  # type: ignore[union-attr]
        raise UserError(f"allow must be a list of package names, got {config.get('allow')!r}")


# Arguments against signatures ---------------------------------------------------------------


def check_node(node: Any, key: str, allow: Iterable[str], given: set[str]) -> None:
    """Compare a node's keys and values with the signature of its target, and those of the nodes in it."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"{key}._target_ is needed: {key} must be a choice of the group, got {_short(node)}")
    target = locate(node._target_, key, allow)
    known, open_ended, required = _arguments(target)
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    arguments = {str(name): value for name, value in values.items() if not str(name).startswith("_")}
    for name, value in arguments.items():
        place = f"{key}.{name}"
        if name not in known:
            if open_ended:
                continue
            raise UserError(f"{place}: {_label(target)} has no such argument; {nearest(name, set(known) - given)}")
        child = node[name]
        if isinstance(child, DictConfig) and "_target_" in child:
            check_node(child, place, allow, set())
        else:
            _check_type(value, known[name], place)
    if not node.get("_partial_", False):
        missing = required - set(arguments) - given
        if missing:
            raise UserError(f"{key}.{min(missing)} is needed by {_label(target)}: set {key}.{min(missing)}=...")


def _label(target: Any) -> str:
    return getattr(target, "__qualname__", str(target))


def _short(value: Any) -> str:
    text = repr(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
    return text if len(text) < 60 else text[:57] + "..."


def _arguments(target: Any) -> tuple[dict[str, Any], bool, set[str]]:
    """Argument names with their types, whether others are taken, and those without a default.

    ``**kwargs`` of a constructor are followed into the base classes.
    """
    known: dict[str, Any] = {}
    required: set[str] = set()
    open_ended = True
    bases = target.__mro__ if inspect.isclass(target) else ()
    makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] if bases else [target]
    for maker in map(inspect.unwrap, makers):
        if maker is object.__init__:
            open_ended = False
            break
        try:
            parameters = inspect.signature(maker).parameters
        except (TypeError, ValueError):
            break
        hints = _hints(maker)
        open_ended = False
        for name, parameter in parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                open_ended = True
            elif name != "self" and parameter.kind is not parameter.VAR_POSITIONAL and name not in known:
                known[name] = hints.get(name, Any)
                if parameter.default is parameter.empty:
                    required.add(name)
        if not open_ended:
            break
    return known, open_ended, required


def _hints(maker: Any) -> dict[str, Any]:
    try:
        return get_type_hints(maker)
    except Exception:  # annotations of other packages that only resolve for a type checker
        return {}


def _check_type(value: Any, annotation: Any, place: str) -> None:
    from typeguard import TypeCheckError, check_type

    if annotation is Any:
        return
    wanted = _readable(annotation)
    if isinstance(value, bool) and "bool" not in wanted:
        raise UserError(f"{place} must be {wanted}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{place} must be a finite number, got {value!r}")
    try:
        check_type(value, annotation)
    except TypeCheckError:
        if isinstance(value, list) and _accepts_list(value, annotation):
            return
        if isinstance(value, dict):
            return
        raise UserError(f"{place} must be {wanted}, got {value!r}") from None
    except Exception:  # an annotation that cannot be checked at run time says nothing
        return


def _accepts_list(value: list, annotation: Any) -> bool:
    """Whether a tuple is wanted: YAML has only lists."""
    from typeguard import TypeCheckError, check_type

    try:
        check_type(tuple(tuple(v) if isinstance(v, list) else v for v in value), annotation)
    except TypeCheckError:
        return False
    return True


def _readable(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    for noise in ("typing.", "collections.abc.", "pathlib.", "torch."):
        text = text.replace(noise, "")
    return text.replace("NoneType", "null").replace("None", "null")


# Machine, optimizer, combinations -----------------------------------------------------------


def _machine(config: DictConfig) -> None:
    import torch

    trainer = config.trainer
    kind, devices, strategy = trainer.get("accelerator"), trainer.get("devices"), str(trainer.get("strategy", "auto"))
    kinds = ("cpu", "gpu", "cuda", "mps", "auto", "tpu")
    if kind not in kinds:
        raise UserError(f"trainer.accelerator={kind!r} is unknown; {nearest(str(kind), kinds)}")
    if kind in ("gpu", "cuda"):
        available = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not available:
            raise UserError("accelerator: this machine has no usable NVIDIA GPU; use accelerator=cpu (or ddp_cpu)")
        if isinstance(devices, int) and devices > available:
            raise UserError(f"trainer.devices={devices}, but this machine has {available} GPU(s)")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("accelerator: this machine has no Apple GPU; use accelerator=cpu")
    if isinstance(devices, bool) or (isinstance(devices, int) and devices == 0):
        raise UserError(f"trainer.devices must be a positive number, -1 or a list, got {devices!r}")
    if kind == "cpu" and isinstance(devices, int) and devices < 0:
        raise UserError(f"trainer.devices={devices} needs GPUs; on a CPU give the number of processes")
    nodes = trainer.get("num_nodes", 1)
    if isinstance(nodes, int) and nodes > 1 and "LOCAL_RANK" not in os.environ and "SLURM_NTASKS" not in os.environ:
        raise UserError(
            f"trainer.num_nodes={nodes}: start one process per device with torchrun or SLURM; see scripts/multi_node.sh"
        )
    from lightning.pytorch.strategies import StrategyRegistry

    names = {"auto", *StrategyRegistry.available_strategies()}
    if strategy not in names:
        raise UserError(f"trainer.strategy={strategy!r} is unknown; {nearest(strategy, names)}")
    data = Path(config.paths.data).expanduser()
    if data.exists() and not data.is_dir():
        raise UserError(f"paths.data: {data} is a file, not a folder")


def _optimizer(config: DictConfig, allow: list[str]) -> None:
    """Build the optimizer and the scheduler once on a lone parameter: they refuse bad values themselves."""
    if config.get("optimizer") is None:
        return
    import torch

    make = instantiate(config.optimizer, "optimizer", allow)
    if not callable(make):
        raise UserError("optimizer._partial_ must be true: the optimizer is made once the parameters exist")
    try:
        optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer: {str(error).splitlines()[0]}") from None
    if config.get("scheduler") is None:
        return
    try:
        instantiate(config.scheduler, "scheduler", allow)["scheduler"](optimizer)
    except (ValueError, TypeError) as error:
        raise UserError(f"scheduler: {str(error).splitlines()[0]}") from None


def _combination(config: DictConfig, allow: list[str]) -> None:
    from replicata.run.launch import world

    method = locate(config.method._target_, "method", allow)
    processes = world(config)
    if processes > 1 and getattr(method, "parallel", "ddp") == "single":
        raise UserError(
            f"accelerator: {_label(method)} works on one device, not {processes};"
            " use accelerator=cpu or accelerator=gpu"
        )
    checkpoint: Mapping[str, Any] = (config.get("callbacks") or {}).get("checkpoint") or {}
    if config.test == "best" and not checkpoint.get("monitor"):
        raise UserError("test=best needs callbacks.checkpoint.monitor=<a validation metric>, for instance val/loss")
    if config.test == "best" and "fsdp" in str(config.trainer.get("strategy")):
        raise UserError("test=best is not possible with accelerator=fsdp: no process holds all weights; use test=last")

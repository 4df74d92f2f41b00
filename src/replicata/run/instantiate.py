"""Building objects from ``_target_``, from an allow-list of packages.

A config may come from a stranger. Hydra 1.3 blocks a list of known dangerous targets and 1.4 asks
the calling code for a list of allowed ones; we are stricter than the first and work with both: the
object that a target resolves to must itself be defined in an allowed package. So an alias such as
``torch.os.system`` is refused for what it is, and ``functools.partial`` cannot wrap it either.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from replicata.errors import UserError, nearest

ALLOWED = frozenset(
    {
        "gymnasium",
        "lightning",
        "replicata",
        "sklearn",
        "timm",
        "torch",
        "torch_geometric",
        "torchmetrics",
        "torchvision",
        "transformers",
    }
)
# Inside allowed packages: what loads code or objects from files or the network, or calls what it is told to call.
REFUSED = (
    "torch.classes",
    "torch.hub",
    "torch.jit",
    "torch.load",
    "torch.ops",
    "torch.package",
    "torch.serialization",
    "torch.utils.cpp_extension",
    "torch.utils.model_zoo",
    "torch.multiprocessing",
    "torch.distributed",
    "torch._",
    "torch.utils._",
    "lightning.fabric.utilities.cloud_io",
    "lightning.pytorch.cli",
    "sklearn.externals",
    "sklearn.utils._joblib",
    "sklearn.datasets",
)


def locate(target: str, key: str, allow: Iterable[str] = ()) -> Any:
    """The class or function that a ``_target_`` names.

    Args:
        target: Dotted path.
        key: Config key of the node, for the message.
        allow: Further top-level packages (the ``allow`` setting).

    Raises:
        UserError: if it does not exist, or is not defined in an allowed package.
    """
    if not isinstance(target, str):
        raise UserError(f"{key}._target_ must be a dotted name, got {target!r}")
    allowed = ALLOWED | set(allow)
    _refuse(target, target, key, allowed)
    found = _import(target, key)
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not callable(found) or not isinstance(module, str) or inspect.ismodule(found):
        raise UserError(f"{key}._target_: {target} is not a class or function")
    _refuse(f"{module}.{name}", target, key, allowed)
    return found


def _refuse(real: str, target: str, key: str, allowed: Iterable[str]) -> None:
    package = real.partition(".")[0]
    alias = "" if real == target else f" (it is {real})"
    if package not in allowed:
        raise UserError(
            f"{key}._target_: {target}{alias} is not from an allowed package; {nearest(package, allowed)}"
            f" (to trust a package of your own: allow=[{package}])"
        )
    for prefix in REFUSED:
        if real == prefix or real.startswith(prefix if prefix.endswith("_") else prefix + "."):
            raise UserError(f"{key}._target_: {target}{alias} is refused: it can load or run foreign code")


def _import(target: str, key: str) -> Any:
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        raise UserError(f"{key}._target_: {target!r} is not a dotted name")
    found: Any = None
    for cut in range(len(parts), 0, -1):
        name = ".".join(parts[:cut])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                continue
            raise UserError(f"{key}._target_: {target} needs the package {error.name!r}: install it") from None
        for done in range(cut, len(parts)):
            if not hasattr(found, parts[done]):
                here = ".".join(parts[:done])
                public = [word for word in dir(found) if not word.startswith("_")]
                raise UserError(f"{key}._target_: {here} has no {parts[done]!r}; {nearest(parts[done], public)}")
            found = getattr(found, parts[done])
        return found
    raise UserError(f"{key}._target_: there is no package {parts[0]!r}; install it or correct the name")


def targets(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All (config key, ``_target_``) pairs of a resolved config."""
    if isinstance(config, DictConfig | ListConfig):
        config = OmegaConf.to_container(config, resolve=False)
    if isinstance(config, dict):
        if "_target_" in config:
            yield key, config["_target_"]
        for name, value in config.items():
            yield from targets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list):
        for position, value in enumerate(config):
            yield from targets(value, f"{key}[{position}]")


def instantiate(config: Any, key: str, allow: Iterable[str] = (), **given: Any) -> Any:
    """Hydra's ``instantiate`` on a node whose every target was found on the allow-list.

    Args:
        config: Node with a ``_target_``, or a container of such nodes.
        key: Where it stands in the run's config.
        allow: Further top-level packages.
        **given: Arguments that the config cannot hold (a network, parameters).

    Raises:
        UserError: for a target that is refused, or arguments that the constructor refuses.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    for place, target in targets(config, key):
        locate(target, place, allow)
    try:
        return hydra_instantiate(config, **given, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ValueError | TypeError):
            message = str(cause).splitlines()[0]
            where = "" if message.startswith(key) else f"{key}: "
            raise UserError(f"{where}{message}") from cause
        if type(cause).__name__ == "MisconfigurationException":
            raise UserError(f"{key}: {str(cause).splitlines()[0]}") from cause
        raise cause from None

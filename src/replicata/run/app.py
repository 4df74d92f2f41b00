"""``replicata run``: Hydra's main around the runner, with errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from replicata.errors import RunError, UserError, nearest
from replicata.run import compose as composing
from replicata.run.failures import conclusion, names, noted, show_failures
from replicata.run.job import Job, failed


def main(arguments: Sequence[str]) -> int:
    """Run with the given command line; returns the exit status."""
    arguments = list(arguments)
    tracing = "debug=trace" in arguments or "trace=true" in arguments
    return guarded(lambda: call_hydra(arguments, tracing), tracing)


def guarded(action: Callable[[], Any], tracing: bool = False) -> int:
    """0 when the action returns, 1 when a run failed, 2 for the user's mistake, 130 when interrupted."""
    try:
        action()
    except UserError as error:
        if tracing:
            raise
        return complain(error, 2)
    except KeyboardInterrupt:
        print("replicata: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except RunError as error:
        if tracing:
            raise
        return complain(error, 1)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if tracing:
            raise
        from replicata.run.runner import first_line

        return complain(f"the run failed: {first_line(error)} (debug=trace shows where)", 1)
    return 0


def complain(message: object, status: int) -> int:
    print(f"replicata: {' '.join(str(message).split())}", file=sys.stderr)
    return status


def call_hydra(arguments: list[str], tracing: bool) -> None:
    """Hydra's main on a command line, with its exceptions turned into ours.

    Raises:
        UserError, RunError: why it failed; of a sweep's runs, that some did.
    """
    dirs = composing.search_dirs(config_dirs(arguments))
    _check_flags(arguments)
    arguments = _overrides_last(_without_nothing(_with_smoke(arguments, dirs), dirs))
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of Hydra's printer
    before = sys.argv
    sys.argv = ["replicata", *arguments]
    job = Job(dirs, tracing)
    for left in (failed, noted, names):
        left.clear()
    try:
        hydra.main(version_base="1.3", config_path=str(composing.config_dir()), config_name=composing.PRIMARY)(job)()
    except (HydraException, OmegaConfBaseException) as error:
        from replicata.run.explain import explain

        raise explain(error, arguments, dirs) from error
    except ValueError as error:  # Hydra's own way with an override that has no key
        if "Config group override" not in str(error):
            raise
        bad = next((word for word in arguments if not word.partition("=")[0].strip("+~")), arguments[-1])
        raise UserError(f"cannot read the override {bad!r}: write key=value") from None
    finally:
        sys.argv = before
    if noted:
        show_failures(noted)
        raise conclusion(noted)
    if failed:
        raise failed[0]


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Folders named by ``--config-dir`` / ``-cd``."""
    found = []
    for position, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = value if equals else (arguments[position + 1] if position + 1 < len(arguments) else "")
            if not Path(folder).is_dir():
                raise UserError(f"--config-dir: there is no folder {folder!r}")
            found.append(Path(folder))
    return found


def _overrides_last(arguments: Sequence[str]) -> list[str]:
    """Flags before overrides: Hydra's parser takes no overrides on both sides of a flag."""
    takes_value = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")
    words = [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if before not in takes_value and not word.startswith("-") and ("=" in word or word.startswith("~"))
    ]
    rest = list(arguments)
    for word in words:
        rest.remove(word)
    return rest + words


def _without_nothing(arguments: list[str], dirs: Sequence[Path]) -> list[str]:
    """``group=null`` as people write it, in Hydra's way: ``~group``."""
    names = composing.groups(dirs)
    return [f"~{word.removesuffix('=null')}" if word.removesuffix("=null") in names else word for word in arguments]


def _check_flags(arguments: Sequence[str]) -> None:
    from hydra._internal.utils import get_args_parser

    known = set(get_args_parser()._option_string_actions) | {"--smoke"}
    for word in arguments:
        flag = word.partition("=")[0]
        if flag.startswith("-") and flag not in known:
            raise UserError(f"{flag} is no option of `replicata run`; {nearest(flag, known)}")


def _with_smoke(arguments: list[str], dirs: Sequence[Path]) -> list[str]:
    """Replace ``--smoke`` by the experiment's ``smoke:`` overrides; what the user says goes before them."""
    if "--smoke" not in arguments:
        return arguments
    rest = [word for word in arguments if word != "--smoke"]
    names = [word.partition("=")[2] for word in rest if word.startswith("experiment=")]
    if len(names) != 1 or "," in names[0]:
        raise UserError("--smoke needs exactly one experiment=<family>/<slug>")
    path = composing.find("experiment", names[0], dirs)
    if path is None:
        known = composing.choices("experiment", dirs)
        raise UserError(f"experiment={names[0]} does not exist; {nearest(names[0], known)}")
    smoke = smoke_overrides(path, dirs)
    said = {word.lstrip("+~").partition("=")[0] for word in rest}
    return rest + [word for word in smoke if word.lstrip("+~").partition("=")[0] not in said]


def smoke_overrides(path: Path, dirs: Sequence[Path]) -> list[str]:
    """The ``smoke:`` list of an experiment, or of the one it derives from."""
    content = composing.read(path)
    if content.get("smoke"):
        return [str(word) for word in content["smoke"]]
    for entry in content.get("defaults") or []:
        base = str(entry).lstrip("/").removeprefix("experiment/") if isinstance(entry, str) else ""
        parent = composing.find("experiment", base, dirs) if base and base != "_self_" else None
        if parent is not None:
            return smoke_overrides(parent, dirs)
    raise UserError(f"{path} has no smoke: overrides")

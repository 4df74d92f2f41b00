"""The command lines of ``replicata study`` and ``replicata tune``: the studies they name, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from replicata.errors import RunError, UserError, nearest
from replicata.run import compose as composing

LISTS = ("arms", "claims")
NUMBERS = {"seeds": 1, "retries": 0}  # and the least they can be


def each_study(
    arguments: Sequence[str],
    command: str,
    usage: str,
    flags: Mapping[str, str],
    switches: Mapping[str, str],
    **fixed: str,
) -> None:
    """Call the study sweeper for every study that a command line names.

    Args:
        arguments: The command line.
        command: The command, for messages.
        usage: How it is used.
        flags: Its flags that take a value, and the sweeper's options that they set.
        switches: Its other flags.
        **fixed: Options of the sweeper that make it this command.
    """
    from replicata.run.app import call_hydra, smoke_overrides

    rest, folders = config_dir_words(arguments)
    options, words = _options(rest, command, usage, flags, switches)
    everything = "--all" in words
    overrides = [word for word in words if "=" in word or word.startswith("~")]
    patterns = [word for word in words if word not in overrides and word != "--all"]
    dirs = composing.search_dirs([Path(folder) for folder in folders])
    if not patterns and not everything:
        raise UserError(usage)
    names = named(["*"] if everything else patterns, dirs)
    problems = []
    for name in names:
        chosen = options | fixed
        said = list(overrides)
        if "smoke" in chosen:
            path = composing.find("experiment", name, dirs)
            assert path is not None
            keys = {word.partition("=")[0] for word in said}
            said += [word for word in smoke_overrides(path, dirs) if word.partition("=")[0] not in keys]
            if "--seeds" in flags:
                chosen.setdefault("seeds", "1")
        sweeper = [f"hydra.sweeper.{key}={value}" for key, value in chosen.items()]
        cd = [word for folder in folders for word in ("--config-dir", folder)]
        try:
            call_hydra(
                [*cd, "--multirun", f"experiment={name}", "hydra/sweeper=study", *sweeper, *said], "trace=true" in words
            )
        except RunError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise RunError("; ".join(problems))


def config_dir_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without ``--config-dir``, and what it named."""
    from replicata.run.app import config_dirs

    folders = [str(folder) for folder in config_dirs(arguments)]
    rest, skip = [], False
    for word in arguments:
        if not skip and word.partition("=")[0] not in ("--config-dir", "-cd"):
            rest.append(word)
        skip = word in ("--config-dir", "-cd")
    return rest, folders


def _options(
    arguments: Sequence[str], command: str, usage: str, flags: Mapping[str, str], switches: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Flags as options of the sweeper, and the other words."""
    options: dict[str, str] = {}
    words: list[str] = []
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        flag, equals, value = word.partition("=")
        if flag in flags:
            if not equals:
                if not pending:
                    raise UserError(f"{flag} needs a value; {usage}")
                value = pending.pop(0)
            key = flags[flag]
            if key in NUMBERS and not (value.isdigit() and int(value) >= NUMBERS[key]):
                raise UserError(f"{flag} must be a number of at least {NUMBERS[key]}, got {value!r}")
            options[key] = f"[{value}]" if key in LISTS else value
        elif word in switches:
            options[switches[word]] = "true"
        elif word.startswith("-") and word != "--all":
            hint = nearest(word, [*flags, *switches, "--all"])
            raise UserError(f"{word} is no option of `replicata {command}`; {hint}")
        else:
            words.append(word)
    return options, words


def named(patterns: Sequence[str], dirs: Sequence[Path]) -> list[str]:
    """Experiments with a study that the patterns name."""
    names: list[str] = []
    for pattern in patterns:
        if composing.described(pattern, dirs).get("study"):
            found = [pattern]
        else:
            known = [name for name, path in composing.experiments(dirs) if composing.read(path).get("study")]
            found = [name for name in known if fnmatch(name, pattern)]
            if not found:
                raise UserError(f"there is no study {pattern!r}; {nearest(pattern, known)}")
        names += [name for name in found if name not in names]
    return names

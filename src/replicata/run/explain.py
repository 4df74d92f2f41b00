"""Hydra's and OmegaConf's errors, said in one line with the nearest valid choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from replicata.errors import UserError, nearest
from replicata.run import compose as composing

PACKAGE = "the first line of its file must be `# @package _global_`"


def explain(error: BaseException, arguments: Sequence[str], dirs: Sequence[Path]) -> UserError:
    """The line for a composition error."""
    text = _text(error)
    words = [word for word in arguments if not word.startswith("-")]
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing:
        return _missing_choice(missing.group(1), dirs)
    override = re.search(r"Could not (?:override|append to config|delete from config)[^'\n]*'?([^'\n]*)", text)
    if override or "not in struct" in text:
        return _unknown_key(text, words, dirs)
    if type(error).__name__ == "OverrideParseException" or "Error when parsing" in text or "mismatched input" in text:
        bad = getattr(error, "override", "") or _quoted(text) or ""
        return UserError(f"cannot read the override {bad!r}: write key=value, and quote values with special characters")
    multiple = re.search(r"Multiple values for ([\w/@.]+)", text)
    if multiple:
        return UserError(f"{multiple.group(1)} is given more than once; keep one")
    mandatory = re.search(r"(?:Missing mandatory value|You must specify '?)[:\s]*([\w./@]+)", text)
    if mandatory:
        return UserError(f"{mandatory.group(1)} is needed: set {mandatory.group(1)}=...")
    key = re.search(r"full_key: ([\w.\[\]]+)", text)
    interpolation = re.search(r"Interpolation key '([^']+)' not found", text)
    if interpolation:
        where = f"{key.group(1)}: " if key else ""
        hint = interpolation.group(1)
        return UserError(
            f"{where}it refers to {hint}, which this combination does not have; choose a matching {hint.split('.')[0]}"
        )
    if "Ambiguous" in text or "without a value" in text:
        return UserError(_one_line(text))
    where = f"{key.group(1)}: " if key else ""
    return UserError(f"{where}{_one_line(text)}")


def _text(error: BaseException) -> str:
    cause = error.__cause__
    return f"{error}\n{cause}" if cause is not None else str(error)


def _one_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "the config cannot be composed")


def _quoted(text: str) -> str | None:
    found = re.search(r"'([^']*)'", text)
    return found.group(1) if found else None


def _missing_choice(path: str, dirs: Sequence[Path]) -> UserError:
    """A group has no such choice."""
    known_groups = composing.groups(dirs)
    group, _, choice = path.partition("/")
    if group in known_groups and choice:
        return UserError(f"{group}={choice} does not exist; {nearest(choice, composing.choices(group, dirs))}")
    return UserError(f"there is no config {path!r}; {nearest(path, known_groups)}")


def _unknown_key(text: str, words: Sequence[str], dirs: Sequence[Path]) -> UserError:
    """An override names a key or group that is not there: the nearest one is offered in full."""
    typed = {word.lstrip("+~").partition("=")[0]: word for word in words}
    full = re.search(r"full_key: ([\w.\[\]]+)", text)
    named = full.group(1) if full else ""
    # Hydra names the key as far as it got; what was typed says more.
    key = max((key for key in (*typed, named) if key and key in text), key=len, default=named)
    if key in composing.groups(dirs) and typed.get(key, "").startswith(f"{key}="):
        return UserError(f"{typed[key]}: {PACKAGE}")
    beside, parent = _siblings(key, words, typed.get(key, ""))
    known = beside if parent else [*beside, *composing.groups(dirs)]
    hint = nearest(key.removeprefix(f"{parent}."), known, prefix=f"{parent}." if parent else "")
    return UserError(f"{key} is not a key of this config; {hint}")


def _siblings(key: str, words: Sequence[str], bad: str) -> tuple[list[str], str]:
    """Keys beside the wrong one, in the config composed without it."""
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig, OmegaConf

    GlobalHydra.instance().clear()
    plain = [word for word in words if word != bad and "=" in word and "," not in word]
    try:
        config = composing.compose(plain)
    except Exception:  # the other overrides are wrong too: the groups remain as a hint
        return [], ""
    parts = key.split(".")[:-1]
    while parts:
        node = OmegaConf.select(config, ".".join(parts))
        if isinstance(node, DictConfig):
            return [str(name) for name in node], ".".join(parts)
        parts.pop()
    return [str(name) for name in config], ""

"""Values of a config node, read and checked; ``where`` arguments are config keys for messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from replicata.errors import UserError, nearest
from replicata.study.schema import Region

BOUNDS = {
    "at_least": (True, True), ">=": (True, True), "above": (True, False), ">": (True, False),
    "at_most": (False, True), "<=": (False, True), "below": (False, False), "<": (False, False),
}  # fmt: skip


class Reader:
    """Reads plain values.

    Args:
        name: Name of the experiment, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def error(self, where: str, message: str) -> UserError:
        return UserError(f"{self.name}: {where}{' ' if message[:1] != ':' else ''}{message}")

    def mapping(self, node: Any, where: str, known: Iterable[str] | None = None) -> dict[str, Any]:
        if node is None:
            return {}
        if not isinstance(node, Mapping):
            raise self.error(where, f"must be a mapping, got {node!r}")
        result = {str(key): value for key, value in node.items()}
        if known is not None:
            for key in result:
                if key not in known:
                    raise self.error(f"{where}.{key}", f"is not known; {nearest(key, known)}")
        return result

    def texts(self, node: Any, where: str) -> tuple[str, ...]:
        if node is None:
            return ()
        if isinstance(node, str) or not isinstance(node, Sequence):
            raise self.error(where, f"must be a list, got {node!r}")
        for item in node:
            if isinstance(item, bool | Mapping) or not isinstance(item, str | int | float):
                raise self.error(where, f"must be a list of names, got {item!r} in it")
        return tuple(str(item) for item in node)

    def overrides(self, node: Any, where: str) -> tuple[str, ...]:
        words = self.texts(node, where)
        for word in words:
            key = word.lstrip("+~").partition("=")[0]
            if "=" not in word and not word.startswith("~"):
                raise self.error(where, f"{word!r} is no Hydra override: write key=value")
            if key in ("seed", "experiment"):
                raise self.error(where, f"{word!r}: the study itself sets {key}; take it out")
        return words

    def number(self, node: Any, where: str) -> float:
        if isinstance(node, bool) or not isinstance(node, int | float):
            # YAML 1.1 reads 1e-3 as a text
            try:
                node = float(node) if isinstance(node, str) else None
            except ValueError:
                node = None
        if node is None or not math.isfinite(node):
            raise self.error(where, f"must be a number, got {node!r}")
        return float(node)

    def count(self, node: Any, where: str) -> int:
        if type(node) is not int or node < 0:
            raise self.error(where, f"must be a whole number of at least 0, got {node!r}")
        return node

    def flag(self, node: Any, where: str) -> bool:
        if not isinstance(node, bool):
            raise self.error(where, f"must be true or false, got {node!r}")
        return node

    def text(self, node: Any, where: str) -> str:
        if not isinstance(node, str) or not node.strip():
            raise self.error(where, f"must be a text, got {node!r}")
        return node

    def choice(self, node: Any, choices: Sequence[str], where: str) -> str:
        if node not in choices:
            raise self.error(where, f"cannot be {node!r}; {nearest(str(node), choices)}")
        return str(node)

    def optional(self, node: Any, choices: Sequence[str], where: str) -> str | None:
        return None if node is None else self.choice(node, choices, where)

    def positive(self, content: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
        if key not in content and default is None:
            raise self.error(f"{where}.{key}", "is missing")
        value = self.number(content.get(key, default), f"{where}.{key}")
        if value < 0:
            raise self.error(f"{where}.{key}", f"must be >= 0, got {value:g}")
        return value

    def seeds(self, node: Any, where: str) -> tuple[int, ...]:
        if isinstance(node, int) and not isinstance(node, bool) and node >= 1:
            return tuple(range(node))
        numbers = isinstance(node, list | tuple) and all(type(seed) is int and seed >= 0 for seed in node)
        if not numbers or not node or len(set(node)) != len(node):
            raise self.error(where, f"must be a number of seeds or a list of different ones, got {node!r}")
        return tuple(node)

    def better(self, content: Mapping[str, Any], where: str) -> bool:
        return self.choice(content.get("better", "higher"), ("higher", "lower"), f"{where}.better") == "higher"

    def bound(self, content: Mapping[str, Any], where: str, default: Region | None = None) -> Region:
        found = [key for key in BOUNDS if key in content]
        if not found and default is not None:
            return default
        if len(found) != 1:
            raise self.error(where, "needs exactly one of at_least, at_most, above, below")
        above, closed = BOUNDS[found[0]]
        return Region(self.number(content[found[0]], f"{where}.{found[0]}"), above, closed)

"""The space of a search: which overrides it varies, and how."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from replicata.errors import UserError, nearest

Value = float | int | str | bool | None
NUMBERS = ("low", "high", "log", "step")
KEYS = {"float": NUMBERS, "int": NUMBERS, "categorical": ("choices",)}
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")  # a string that needs no quotes, unless it is one of these words
WORDS = {"null", "true", "false", "nan", "inf"}


@dataclass(frozen=True)
class Parameter:
    """One override that a search varies.

    Args:
        key: What it overrides: ``optimizer.lr``, or a config group.
        kind: ``float``, ``int`` or ``categorical``.
        low, high: Ends of the range, both included.
        log: Whether it is searched on a logarithmic scale.
        step: Distance of its values.
        choices: Values of a categorical one; lists stand here as Hydra writes them.
        texts: The choices as values of an override.
    """

    key: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    texts: tuple[str, ...] = ()

    def override(self, value: Value) -> str:
        """``key=value`` on a command line of Hydra's; a float in full, so that the run is the very same."""
        text = self.texts[self.choices.index(value)] if self.kind == "categorical" else repr(value)
        return f"{self.key}={text}"

    @property
    def first(self) -> Value:
        """Its first value."""
        if self.kind == "categorical":
            return self.choices[0]
        return int(self.low) if self.kind == "int" else self.low

    def grid(self) -> Sequence[Value]:
        """All its values.

        Raises:
            UserError: if it is continuous.
        """
        if self.kind == "categorical":
            return self.choices
        if self.step is None or self.log:
            raise UserError(f"search.space: {self.key} has no step, so a grid has no points on it: list choices")
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        points = [self.low + index * self.step for index in range(count)]
        return [int(point) for point in points] if self.kind == "int" else [round(point, 12) for point in points]

    def suggest(self, trial: Any) -> Value:
        """Ask an Optuna trial."""
        if self.kind == "categorical":
            return trial.suggest_categorical(self.key, self.choices)
        if self.kind == "int":
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def sweep(self) -> dict[str, Any]:
        """The same in a W&B sweep file."""
        if self.kind == "categorical":
            plain = [v if isinstance(v, int | float) else t for v, t in zip(self.choices, self.texts, strict=True)]
            return {"values": plain}
        if self.step is not None and (self.kind == "float" or self.step != 1):
            return {"values": list(self.grid())}
        if self.kind == "int":
            low, high = int(self.low), int(self.high)
            log = {"distribution": "q_log_uniform_values", "q": 1} if self.log else {"distribution": "int_uniform"}
            return {**log, "min": low, "max": high}
        return {"distribution": "log_uniform_values" if self.log else "uniform", "min": self.low, "max": self.high}


def parse_space(space: Mapping[str, Any]) -> list[Parameter]:
    """The parameters that ``search.space`` declares.

    Raises:
        UserError: for the first mistake.
    """
    return [_parameter(str(key), spec) for key, spec in space.items()]


def _parameter(key: str, spec: Any) -> Parameter:
    place = f"search.space: {key}"
    if not isinstance(spec, Mapping):
        raise UserError(f"{place} must be {{type: ..., ...}}, got {spec!r}")
    kind = spec.get("type")
    if kind not in KEYS:
        raise UserError(f"{place}.type must be one of {', '.join(KEYS)}, got {kind!r}")
    for name in spec:
        if name != "type" and name not in KEYS[kind]:
            raise UserError(f"{place}.{name}: a {kind} parameter has no such key; {nearest(str(name), KEYS[kind])}")
    if kind == "categorical":
        return _choices(key, spec.get("choices"))
    return _numbers(key, kind, spec)


def _choices(key: str, values: Any) -> Parameter:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise UserError(f"search.space: {key}.choices must be a list with at least one value, got {values!r}")
    texts = [text_of(value) for value in values]
    scalars = [
        value if value is None or isinstance(value, bool | int | float | str) else text
        for value, text in zip(values, texts, strict=True)
    ]
    if len(set(scalars)) < len(scalars):  # 1 and true are the same, too
        raise UserError(f"search.space: {key}.choices has a value twice: {', '.join(texts)}")
    return Parameter(key, "categorical", choices=tuple(scalars), texts=tuple(texts))


def _numbers(key: str, kind: Literal["float", "int"], spec: Mapping[str, Any]) -> Parameter:
    place = f"search.space: {key}"
    for name in ("low", "high", "step"):
        value = spec.get(name)
        if value is None and name == "step":
            continue
        number = isinstance(value, int if kind == "int" else int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):  # type: ignore[arg-type]
            word = "a whole number" if kind == "int" else "a number"
            raise UserError(f"{place}.{name} must be {word}, got {value!r}")
    low, high, step, log = spec["low"], spec["high"], spec.get("step"), spec.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{place}.log must be true or false, got {log!r}")
    if low >= high:
        raise UserError(f"{place}.low must be below high, got {low} and {high}")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"{place}.step must be above 0 and fit between {low} and {high}, got {step}")
    if log and low <= 0:
        raise UserError(f"{place}.low must be above 0 on a logarithmic scale, got {low}")
    if log and step is not None:
        raise UserError(f"{place} has both log and step; keep one")
    if kind == "int":
        return Parameter(key, kind, low, high, log, step or (None if log else 1))
    return Parameter(key, kind, float(low), float(high), log, None if step is None else float(step))


def text_of(value: Any) -> str:
    """A value as Hydra's overrides write it."""
    if isinstance(value, str):
        if PLAIN.fullmatch(value) and value.lower() not in WORDS:
            return value
        from hydra.core.override_parser.types import Quote, QuotedString

        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{text_of(key)}:{text_of(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(text_of(inner) for inner in value) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def from_override(override: Any) -> Parameter:
    """A parameter given on the command line in Hydra's words: ``choice``, ``range``, ``interval``, ``a,b``.

    Args:
        override: Hydra's parsed sweep override.
    """
    key = override.get_key_element()
    sweep = override.value()
    log = "log" in getattr(sweep, "tags", ())
    if override.is_choice_sweep():
        from hydra.core.override_parser.types import Override

        return _choices(key, [Override._convert_value(value) for value in override.sweep_iterator()])
    if override.is_range_sweep():
        whole = isinstance(sweep.start, int) and isinstance(sweep.step, int)
        points = list(sweep.range())  # Hydra's range leaves its end out
        return _numbers(
            key,
            "int" if whole else "float",
            {"low": min(points), "high": max(points), **({"log": True} if log else {"step": abs(sweep.step)})},
        )
    whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
    return _numbers(key, "int" if whole else "float", {"low": sweep.start, "high": sweep.end, "log": log})

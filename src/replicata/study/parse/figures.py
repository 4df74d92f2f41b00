"""Figures: for every kind what it may say, and the arms and levels that it shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from replicata.study.parse.names import Names
from replicata.study.schema import Figure

_FIGURE = ("id", "kind", "title", "arms", "where")
_LABELS = ("x_label", "y_label")
# By kind of figure: what it shows of runs, what it shows of their table instead, what else may be said.
_FIGURES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "curve": (("metric",), ("table", "x", "y"), ("x", "by", "band", "reference", "log_x", "log_y", *_LABELS)),
    "bars": (("metric",), ("table", "y"), ("x", "by", "reference", *_LABELS)),
    "scatter": (("x", "y"), ("table", "x", "y"), ("by", "front", "reference", "log_x", "log_y", *_LABELS)),
    "heatmap": (("metric", "x", "y"), ("table", "value", "x", "y"), _LABELS),
    "images": (("files",), ("table", "image"), ("by", "x")),
}


def read_figures(reader: Names, node: Any, where: str) -> tuple[Figure, ...]:
    """The figures of a study."""
    if not isinstance(node, list | tuple):
        raise reader.error(where, f"must be a list, got {node!r}")
    found: dict[str, Figure] = {}
    for at, inside in enumerate(node):
        content = reader.mapping(inside, f"{where}[{at}]")
        name = reader.text(content.get("id"), f"{where}[{at}].id")
        if not re.fullmatch(r"[a-z0-9_]+", name):
            raise reader.error(f"{where}[{at}].id", f"names a file: use a-z, 0-9 and _ only, got {name!r}")
        if name in found:
            raise reader.error(f"{where}[{name}].id", "is the id of another figure already")
        found[name] = _figure(reader, content, f"{where}[{name}]")
    return tuple(found.values())


def _figure(reader: Names, content: Mapping[str, Any], where: str) -> Figure:
    kind = reader.choice(content.get("kind"), tuple(_FIGURES), f"{where}.kind")
    of_runs, of_table, options = _FIGURES[kind]
    reader.mapping(content, where, (*_FIGURE, *of_runs, *of_table, *options))
    needed, other = (of_table, of_runs) if "table" in content else (of_runs, of_table)
    for key in needed:
        if key not in content:
            instead = "" if "table" in content else f" (or {', '.join(of_table)})"
            raise reader.error(f"{where}.{key}", f"is missing{instead}")
    for key in other:
        if key in content and key not in (*needed, *options):
            raise reader.error(f"{where}.{key}", f"does not go with{'' if 'table' in content else 'out'} table")
    fields: dict[str, Any] = {
        key: reader.text(content[key], f"{where}.{key}")
        for key in ("metric", "table", "x", "y", "value", "image", "files", "by", *_LABELS)
        if key in content
    }
    fields |= {key: reader.flag(content[key], f"{where}.{key}") for key in ("log_x", "log_y") if key in content}
    if "reference" in content:
        here = f"{where}.reference"
        lines = reader.mapping(content["reference"], here)
        fields["reference"] = {name: reader.number(value, f"{here}.{name}") for name, value in lines.items()}
    if "front" in content:
        here, ways = f"{where}.front", ("lower", "higher")
        front = reader.mapping(content["front"], here, ("x", "y"))
        fields["front"] = {axis: reader.choice(front.get(axis), ways, f"{here}.{axis}") for axis in ("x", "y")}
    if "band" in content:
        fields["band"] = _band(reader, content, f"{where}.band")
    title = reader.text(content.get("title"), f"{where}.title")
    figure = _axes(reader, Figure(content["id"], kind, title, (), **fields), where)
    return _shown(reader, figure, content, where)


def _band(reader: Names, content: Mapping[str, Any], where: str) -> str | tuple[str, ...]:
    if isinstance(content["band"], str):
        return reader.choice(content["band"], ("interval", "range"), where)
    columns = reader.texts(content["band"], where)
    if len(columns) != 2 or "table" not in content:
        raise reader.error(where, "must be interval, range, or the two columns of a table that are its edges")
    return columns


def _axes(reader: Names, figure: Figure, where: str) -> Figure:
    """The figure with the axes that it need not name; those of a table are known only when it is drawn."""
    default = {"curve": "epoch", "bars": "arm"}.get(figure.kind)
    figure = replace(figure, x=figure.x or default)
    if figure.table is None and figure.kind != "images":
        own = ("arm", *reader.factors)
        reader.choice(figure.by, own, f"{where}.by")
        if figure.kind != "scatter":
            allowed = ("epoch", "step", *reader.factors) if figure.kind == "curve" else own
            reader.choice(figure.x, allowed, f"{where}.x")
        if figure.kind == "heatmap":
            reader.choice(figure.y, own, f"{where}.y")
    return figure


def _shown(reader: Names, figure: Figure, content: Mapping[str, Any], where: str) -> Figure:
    """The figure with its arms and levels; every factor that they are crossed with must have its place in it."""
    within = figure.table or figure.files or figure.x in ("epoch", "step")  # a run, where a panel has nothing
    if "arms" in content:
        words = reader.variants(content["arms"], f"{where}.arms")
        names = tuple(dict.fromkeys(name for word in words for name in reader.members(word)))
        for name in names:
            reporting, panel = reader.names[name]
            if panel is not None and within:
                message = f": {name!r} is reported by {reporting!r}, which has the curves and tables"
                raise reader.error(f"{where}.arms", message)
    else:
        own = [(name, panel) for name, (arm, panel) in reader.names.items() if not reader.arms[arm].track]
        names = tuple(name for name, panel in own if panel is None or not within)
        if not names:
            raise reader.error(f"{where}.arms", "is missing: every arm belongs to a track")
    crossed = reader.crossed(names)
    chosen = reader.chosen(content.get("where"), crossed, f"{where}.where")
    for factor, arms in crossed.items():
        levels = max(len(arm.levels[factor]) for arm in arms)
        if levels > 1 and factor not in (*chosen, figure.by, figure.x, figure.y):
            hint = f"say where: {{{factor}: <level>}} or by: {factor}"
            raise reader.error(where, f"shows several levels of {factor!r} as one; {hint}")
    return replace(figure, arms=names, where=chosen)

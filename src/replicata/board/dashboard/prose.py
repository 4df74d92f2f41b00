r"""A method's docstring as HTML, read from its source: nothing is imported.

    text = of_experiment("graph/dagnn", dirs)      # Prose(title, credits, idea, body, ...), or None

Docstrings are reStructuredText. Docutils reads them; their equations become MathML, which browsers set without scripts.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from replicata.run import compose as composing

ROLES = ("class", "func", "meth", "mod", "attr", "data", "obj", "exc")
# TeX that the converter does not know, as TeX that it knows.
_KNOWN = ((r"\\arg(?![a-zA-Z])\s*", r"\\operatorname{arg}\\,"),)
_NUMBER = re.compile(r"\\quad\s*\((\d+[a-z]?)\)\s*$")


@dataclass(frozen=True)
class Prose:
    """What a method's file says about the paper.

    Attributes:
        title: First line.
        credits: Authors, venue and links: the second paragraph.
        idea: The paragraph after it.
        body: All the rest.
        path: The file.
        module: Its dotted name.
    """

    title: str
    credits: Markup
    idea: Markup
    body: Markup
    path: Path
    module: str


def of_experiment(name: str, dirs: Sequence[Path]) -> Prose | None:
    """The docstring of the module in which an experiment's method is defined; ``None`` where there is none."""
    target = method_target(name, dirs)
    found = _source(target) if target else None
    if found is None:
        return None
    module, path = found
    return _read(module, path, path.stat().st_mtime_ns)


def method_target(name: str, dirs: Sequence[Path]) -> str:
    """The ``_target_`` of an experiment's method, nothing composed."""
    said = composing.described(name, dirs).get("method") or {}
    if isinstance(said, dict) and said.get("_target_"):
        return str(said["_target_"])
    choice = _choice(name, dirs)
    path = composing.find("method", choice, dirs) if choice else None
    return str(composing.read(path).get("_target_", "")) if path else ""


def _choice(name: str, dirs: Sequence[Path]) -> str:
    """Which file of the group ``method`` an experiment chooses, itself or by what it derives from."""
    path = composing.find("experiment", name, dirs)
    chosen = ""
    for entry in (composing.read(path).get("defaults") or []) if path else []:
        if isinstance(entry, dict):
            for group, choice in entry.items():
                if str(group).removeprefix("override ").lstrip("/") == "method":
                    chosen = str(choice)
        elif isinstance(entry, str) and entry != "_self_":
            chosen = _choice(entry.lstrip("/").removeprefix("experiment/"), dirs) or chosen
    return chosen


def _source(target: str) -> tuple[str, Path] | None:
    """The module that a dotted name is in, and its file, found without importing it."""
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        for path in _files(parts[:cut]):
            if path.is_file():
                return ".".join(parts[:cut]), path
    return None


def _files(parts: Sequence[str]) -> Iterator[Path]:
    own = Path(__file__).resolve().parents[2]
    roots = [own.parent] if parts[0] == own.name else [Path(entry or ".") for entry in sys.path]
    for root in roots:
        base = root.joinpath(*parts)
        yield base.with_suffix(".py")
        yield base / "__init__.py"


@cache
def _read(module: str, path: Path, _changed: int) -> Prose | None:
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return None
    if not text:
        return None
    title, _, rest = text.partition("\n")
    paragraphs = rest.strip().split("\n\n", 2)
    authors, idea, body = [*paragraphs, "", "", ""][:3]
    if ".. " in idea[:3]:
        idea, body = "", f"{idea}\n\n{body}"
    if idea.endswith(":"):  # what follows is shown elsewhere on the page
        idea = f"{idea.rstrip(':')}."
    return Prose(title.strip().rstrip("."), to_html(authors), to_html(idea), to_html(body), path, module)


def to_html(text: str) -> Markup:
    """reStructuredText as HTML; what is wrong with it is left out, never an error. Raw markup in it stays text."""
    if not text.strip():
        return Markup("")
    import docutils.core
    from docutils import nodes
    from docutils.parsers.rst import roles

    for role in ROLES:
        roles.register_local_role(role, _reference)
    settings = {
        **{"raw_enabled": False, "file_insertion_enabled": False, "doctitle_xform": False, "sectsubtitle_xform": False},
        **{"report_level": 5, "halt_level": 5, "initial_header_level": 3, "smart_quotes": False},
        **{"_disable_config": True, "syntax_highlight": "none"},
    }
    document = docutils.core.publish_doctree(text, settings_overrides=settings)
    for node in list(document.findall(nodes.system_message)):
        node.parent.remove(node)
    for node in list(document.findall(lambda found: isinstance(found, nodes.math | nodes.math_block))):
        block = isinstance(node, nodes.math_block)
        node.replace_self(nodes.raw("", equation(node.astext(), block=block), format="html"))
    parts = docutils.core.publish_from_doctree(
        document, writer="html5", settings_overrides={**settings, "output_encoding": "unicode"}
    )
    body = re.search(r"<main[^>]*>(.*)</main>", parts if isinstance(parts, str) else parts.decode(), re.DOTALL)
    return Markup(body[1].strip() if body else escape(text))


def _reference(name: str, raw: str, text: str, *_: Any, **__: Any) -> tuple[list[Any], list[Any]]:
    """``:class:`~a.b.C``` as the name that Sphinx would show."""
    from docutils import nodes

    shown = text.rpartition(".")[2] if text.startswith("~") else text
    return [nodes.literal(raw, shown)], []


def equation(tex: str, *, block: bool) -> str:
    """LaTeX as MathML; what cannot be converted is shown as it was written.

    The rows of a block become rows of a table, so that their numbers stand at the right edge.
    """
    if not block:
        return _mathml(tex, "inline")
    if "\\begin{" in tex:  # its own rows are no rows of the block
        return f'<div class="equation-scroll" tabindex="0" role="group" aria-label="equations">{_aligned(tex)}</div>'
    rows = [row.strip() for row in re.split(r"\\\\(?![a-zA-Z])", _joined(tex)) if row.strip()]
    cells = []
    for row in rows:
        number = _NUMBER.search(row)
        plain = row[: number.start()] if number else row
        left, aligned, right = plain.partition("&")
        said = f'<span class="eq-number">({number[1]})</span>' if number else ""
        if aligned:
            math = f"<td>{_mathml(left, 'block')}</td><td>{_mathml('{}' + right.replace('&', ' '), 'block')}</td>"
        else:
            math = f'<td colspan="2">{_mathml(plain, "block")}</td>'
        cells.append(f"<tr>{math}<td>{said}</td></tr>")
    table = f'<table class="equations" role="presentation"><tbody>{"".join(cells)}</tbody></table>'
    return f'<div class="equation-scroll" tabindex="0" role="group" aria-label="equations">{table}</div>'


def _aligned(tex: str) -> str:
    return _mathml(f"\\begin{{aligned}}{tex}\\end{{aligned}}" if "&" in tex else tex, "block")


def _joined(tex: str) -> str:
    return " ".join(line.strip() for line in tex.splitlines())


def _mathml(tex: str, display: str) -> str:
    from latex2mathml.converter import convert

    if not tex.strip():
        return ""
    for pattern, known in _KNOWN:
        tex = re.sub(pattern, known, tex)
    try:
        return convert(tex, display=display)
    except Exception:  # whatever a converter says about TeX that it does not know
        return f"<code>{escape(tex)}</code>"

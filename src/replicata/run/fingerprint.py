"""Fingerprint of the code that a run's numbers can depend on.

The syntax trees, without docstrings and positions, of all modules of our own (and of allowed
outside packages) that are reachable by imports from the config's targets. Reformatting and comments
do not change it, nor does :mod:`replicata.errors`, which only words messages. Nothing is imported:
files are found and read.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

OUTSIDE = frozenset({"replicata.errors"})


def code_fingerprint(targets: Iterable[str], packages: Iterable[str] = ()) -> str:
    """SHA-256 (16 hex digits) over the modules that the targets reach.

    Args:
        targets: Dotted names of classes and functions.
        packages: Top-level packages besides ``replicata`` to follow imports into.
    """
    followed = {"replicata", *packages}
    pending = [name for target in targets if (name := _module_of(target)) and name.partition(".")[0] in followed]
    seen: dict[str, str] = {}
    while pending:
        module = pending.pop()
        path = _find(module)
        if module in seen or module in OUTSIDE or path is None:
            continue
        digest, imports = _read(path, module, path.name == "__init__.py", path.stat().st_mtime_ns)
        seen[module] = digest
        pending += [name for name in imports if name.partition(".")[0] in followed]
    lines = "\n".join(f"{module} {digest}" for module, digest in sorted(seen.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _module_of(target: str) -> str | None:
    """The longest prefix of a dotted name that is a module."""
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        name = ".".join(parts[:cut])
        if _find(name) is not None:
            return name
    return None


@cache
def _find(module: str) -> Path | None:
    """The source file of a module, looked up on ``sys.path`` without importing anything."""
    top, *rest = module.split(".")
    own = Path(__file__).resolve().parents[1]
    roots = [own] if top == "replicata" else [Path(entry or ".") / top for entry in sys.path]
    for root in roots:
        base = root.joinpath(*rest)
        for path in (base.with_suffix(".py") if rest or root.suffix != ".py" else root, base / "__init__.py"):
            if path.is_file():
                return path
    return None


@cache
def _read(path: Path, module: str, package: bool, _mtime: int) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's syntax tree, and the modules it imports."""
    tree = ast.parse(path.read_bytes())
    imports: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".") if package else module.split(".")[:-1]
                base = ".".join([*parent[: len(parent) - node.level + 1], *([base] if base else [])])
            imports += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body[0] = ast.Pass()
    text = ast.dump(tree, annotate_fields=False, include_attributes=False)
    return hashlib.sha256(text.encode()).hexdigest(), tuple(imports)

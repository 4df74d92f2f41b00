"""Verdicts as a table: on a terminal, and as plain lines for logs and pipes.

    show_verdicts(study, verdicts)
    console.print(verdict_table(verdicts))
    print(verdict_lines(verdicts))

The words are those of :mod:`replicata.study.claims` everywhere: holds, fails, inconclusive, and the reason.
"""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from replicata.study.claims import Verdict
from replicata.study.schema import Study

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {"holds": "green", "fails": "red", "inconclusive": "yellow"}
WIDTH = 110


def show_verdicts(study: Study, verdicts: Sequence[Verdict]) -> None:
    """Print the verdicts of a study: a table on a terminal, lines elsewhere."""
    if not verdicts:
        print(f"{study.name} has no claim to decide")
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(verdict_table(verdicts, title=f"{study.name}: {tally(verdicts)}"))
    else:
        print(f"{study.name}: {tally(verdicts)}\n{verdict_lines(verdicts)}", flush=True)


def verdict_table(verdicts: Sequence[Verdict], title: str | None = None) -> Table:
    """The verdicts as something that Rich prints."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("claim", ratio=4)
    table.add_column("effect, 95 % interval", ratio=2)
    table.add_column("n", justify="right")
    table.add_column("the paper", ratio=2)
    table.add_column("verdict", ratio=3)
    for at, verdict in enumerate(verdicts):
        claim = Text(heading(verdict), "bold").append(f"\n{verdict.statement}", "not bold")
        effect = Text(effect_text(verdict)).append(f"\nwanted {verdict.region}", "dim")
        said = Text(verdict.verdict, f"bold {COLOURS[verdict.verdict]}")
        if reason_text(verdict):
            said.append(f"\n{reason_text(verdict)}", "not bold default")
        last = at == len(verdicts) - 1
        table.add_row(claim, effect, str(verdict.n), paper_text(verdict.paper), said, end_section=not last)
    return table


def verdict_lines(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as plain text: one head line for every claim, what else there is to say indented below it."""
    width = max((len(heading(verdict)) for verdict in verdicts), default=0)
    lines = []
    for verdict in verdicts:
        numbers = f"{effect_text(verdict)}, wanted {verdict.region}, n = {verdict.n}"
        lines.append(f"{verdict.verdict:<12}  {heading(verdict):<{width}}  {numbers}")
        lines += _indented(verdict.statement)
        lines += _indented(f"the paper: {paper_text(verdict.paper)}") if verdict.paper else []
        lines += _indented(f"why: {reason_text(verdict)}") if reason_text(verdict) else []
    return "\n".join(lines)


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many claims hold, fail and are inconclusive; reports and controls are not counted."""
    counted = [verdict.verdict for verdict in verdicts if verdict.role == "claim"]
    counts = [(counted.count(word), word) for word in COLOURS]
    said = ", ".join(f"{number} {_plural(word, number)}" for number, word in counts if number)
    return f"{said} of {len(counted)} claim{'s' * (len(counted) != 1)}" if said else "no claims"


def heading(verdict: Verdict) -> str:
    """The claim's id, with what is special about it."""
    special = [word for word in (verdict.role if verdict.role != "claim" else "", verdict.strength) if word]
    return f"{verdict.id} ({', '.join(special)})" if special else verdict.id


def effect_text(verdict: Verdict) -> str:
    """``0.0124 [0.0061, 0.0187]``."""
    return estimate_text(verdict.effect, verdict.interval)


def reason_text(verdict: Verdict) -> str:
    """Why a claim fails or is inconclusive, and what else a reader must know of it."""
    plain = {"fails": "its interval lies outside", "inconclusive": "its interval reaches over the boundary"}
    return verdict.reason or ("" if verdict.interval is None else plain.get(verdict.verdict, ""))


def estimate_text(effect: float | None, interval: tuple[float, float] | None) -> str:
    """A value and its interval with the digits that the interval leaves meaning to."""
    if effect is None:
        return "no effect"
    if interval is None:
        return f"{number_text(effect)}, no interval"
    low, high = interval
    if low == high:
        return f"{number_text(effect)} exactly" if low == effect else number_text(effect)
    half = (high - low) / 2
    digits = 1 - math.floor(math.log10(half)) if math.isfinite(half) else 3
    return f"{number_text(effect, digits)} [{number_text(low, digits)}, {number_text(high, digits)}]"


def number_text(value: float, digits: int | None = None) -> str:
    """A number with so many decimals, or with four figures; in powers of ten where decimals would be a row of zeros."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if digits is None or digits > 6 or abs(value) >= 1e6:
        return f"{value:.4g}"
    return f"{value:.{max(digits, 0)}f}"


def paper_text(paper: Any) -> str:
    """The paper's own figures in words: ``dagnn 84.4, gcn 81.5 % accuracy (Table 2)``."""
    if not isinstance(paper, Mapping):
        return "" if paper is None else str(paper)
    figures = ", ".join(f"{name} {value}" for name, value in paper.items() if name not in ("unit", "where"))
    said = f"{figures} {paper.get('unit', '')}".strip()
    where = str(paper.get("where", ""))
    return f"{said} ({where})" if said and where else said or where


def _plural(word: str, number: int) -> str:
    return word.removesuffix("s") if number > 1 and word != "inconclusive" else word


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 14, subsequent_indent=" " * 14)

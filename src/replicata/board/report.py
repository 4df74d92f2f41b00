"""The report of studies: printed, and written as Markdown and CSV.

write(folder, summary)            # <folder>/<family>/<slug>.md, .csv (arms) and _claims.csv
write_index(folder, summaries)    # <folder>/index.md and index.csv (the claims of all studies)
show(summary)                     # on the terminal; plain text elsewhere
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicata.board.summary import COSTS, ArmSummary, StudySummary
from replicata.board.tables import (
    effect_text,
    estimate_text,
    heading,
    paper_text,
    reason_text,
    tally,
    verdict_lines,
    verdict_table,
)
from replicata.study.claims import Finding, Verdict

if TYPE_CHECKING:
    from rich.table import Table

COST_NAMES = {
    "seconds": "seconds",
    "stage_seconds": "seconds of stages",
    "parameters": "parameters",
    "peak_memory_mb": "peak memory, MB",
}
WORDS = ("holds", "fails", "inconclusive")


# Files --------------------------------------------------------------------------------------


def write(folder: Path, summary: StudySummary) -> list[Path]:
    """Write the report of one study; the files."""
    stem = folder / summary.name
    files = {
        stem.with_name(f"{stem.name}.md"): markdown(summary, stem.parent),
        stem.with_name(f"{stem.name}.csv"): arms_csv(summary),
        stem.with_name(f"{stem.name}_claims.csv"): claims_csv([summary]),
    }
    return _write(files)


def write_index(folder: Path, summaries: Sequence[StudySummary]) -> list[Path]:
    """Write the overview of all studies; the files."""
    return _write({folder / "index.md": index_markdown(summaries), folder / "index.csv": claims_csv(summaries)})


def _write(files: dict[Path, str]) -> list[Path]:
    from replicata.run.record import write_atomic

    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    return list(files)


def markdown(summary: StudySummary, folder: Path) -> str:
    """The report of one study as Markdown, with links as seen from ``folder``."""
    paper = summary.paper
    links = [f"[{name}]({paper[key]})" for key, name in (("url", "paper"), ("code", "code")) if paper.get(key)]
    parts = [
        f"# {_plain(paper.get('title') or summary.name)}",
        " · ".join([*([_plain(paper["venue"])] if paper.get("venue") else []), *links]),
        f"`{summary.name}`: {_plain(runs_text(summary))}",
        f"Read from `{summary.source}`." + " The method is a reconstruction." * summary.reconstructed,
        "## Claims",
        f"**{tally(summary.verdicts)}**",
        _table(
            ["claim", "verdict", "effect, 95 % interval", "wanted", "n", "the paper"],
            [_claim_cells(verdict) for verdict in summary.verdicts],
        ),
        "\n".join(line for verdict in summary.verdicts for line in _part_lines(verdict)),
        _list("Not decided, because arms that they compare were not run", [f"`{name}`" for name in summary.unclaimed]),
        _list(
            "The committed results say otherwise",
            [f"`{name}` {verdict}" for name, verdict in summary.committed.items()],
        ),
        "## Arms",
        _table(*arms_table(summary, code=True)),
        "Means over seeds with Student's 95 % interval; costs are means over seeds.",
    ]
    if summary.figures:
        parts.append("## Figures")
        for figure, path in summary.figures:
            parts.append(f"![{_plain(figure.title)}]({Path(os.path.relpath(path, folder)).as_posix()})")
    parts.append(_list("Runs without a result", [_plain(problem) for problem in summary.problems]))
    commands = [*summary.commands, *dict.fromkeys(arm.command for arm in summary.arms if arm.command)]
    parts += ["## Repeat it", "```sh\n" + "\n".join(commands) + "\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def index_markdown(summaries: Sequence[StudySummary]) -> str:
    """All studies in one table."""
    header, rows = index_table(summaries)
    linked = [[f"[{row[0]}]({row[0]}.md)", *map(_plain, row[1:])] for row in rows]
    return f"# Studies\n\n{_table(header, linked)}\n" if rows else "# Studies\n\nNone has been run.\n"


def claims_csv(summaries: Iterable[StudySummary]) -> str:
    """Every claim in a row."""
    header = ["experiment", "claim", "role", "strength", "verdict", "effect", "low", "high", "n", "wanted", "method"]
    rows = []
    for summary in summaries:
        for verdict in summary.verdicts:
            low, high = verdict.interval or (None, None)
            said = [verdict.id, verdict.role, verdict.strength, verdict.verdict, verdict.effect, low, high, verdict.n]
            rest = [verdict.region, verdict.method, paper_text(verdict.paper), verdict.statement, reason_text(verdict)]
            rows.append([summary.name, *said, *rest])
    return _csv([*header, "paper", "statement", "reason"], rows)


def arms_csv(summary: StudySummary) -> str:
    """Every metric and cost of every arm in a row."""
    factors = _factors(summary.arms)
    rows: list[list[Any]] = []
    for arm in summary.arms:
        levels = dict(arm.levels)
        own = [arm.arm, *(levels.get(factor, "") for factor in factors)]
        for metric, found in arm.metrics.items():
            rows.append([*own, metric, found.effect, found.low, found.high, found.n])
        rows += [[*own, cost, mean, None, None, arm.done] for cost, mean in arm.costs.items()]
    return _csv(["arm", *factors, "metric", "mean", "low", "high", "n"], rows)


# Tables -------------------------------------------------------------------------------------


def arms_table(
    summary: StudySummary, code: bool = False, without: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: an arm at its levels, its metrics, its costs but those in ``without``."""
    arms = summary.arms
    factors = _factors(arms)
    metrics = list(dict.fromkeys(metric for arm in arms for metric in arm.metrics))
    costs = [*COSTS, *sorted({cost for arm in arms for cost in arm.costs} - {*COSTS, *metrics})]
    costs = [cost for cost in costs if cost not in without and any(cost in arm.costs for arm in arms)]
    rows = []
    for arm in arms:
        levels = dict(arm.levels)
        seeds = str(arm.done) if arm.done == arm.planned else f"{arm.done} of {arm.planned}"
        cells = [f"`{arm.arm}`" if code else arm.arm, *(levels.get(factor, "") for factor in factors), seeds]
        cells += [_mean(arm, metric) for metric in metrics]
        rows.append([*cells, *(_cost(arm.costs.get(cost)) for cost in costs)])
    return ["arm", *factors, "seeds", *metrics, *(COST_NAMES.get(cost, cost) for cost in costs)], rows


def index_table(summaries: Sequence[StudySummary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a study, how its claims came out, what it cost."""
    rows = []
    for summary in summaries:
        claims = [verdict.verdict for verdict in summary.verdicts if verdict.role == "claim"]
        counts = [str(claims.count(word)) for word in WORDS]
        undecided = [claim.id for claim in summary.study.claims if claim.role == "claim"]
        counts.append(str(len(set(undecided) & set(summary.unclaimed))))
        done, planned, stale = _counted(summary)
        runs = (str(done) if done == planned else f"{done} of {planned}") + (f", {stale} stale" if stale else "")
        venue = str(summary.paper.get("venue") or "")
        day = summary.ended.partition("T")[0]
        rows.append([summary.name, venue, *counts, runs, duration_text(summary.seconds), day])
    return ["study", "venue", *WORDS, "not decided", "runs", "computing", "last run"], rows


def runs_text(summary: StudySummary) -> str:
    """How many runs there are, what they took and on what."""
    done, planned, stale = _counted(summary)
    others = [f"{number} {state}" for state, number in summary.runs.items() if state not in ("finished", "stale")]
    others = ([f"{stale} of these by other code: stale"] if stale else []) + others
    said = f"{done} of {planned} runs finished" + (f" ({', '.join(others)})" if others else "")
    where = f" on {'; '.join(summary.hardware)}" if summary.hardware else ""
    return f"{said}; {duration_text(summary.seconds)} of computing{where}"


def _counted(summary: StudySummary) -> tuple[int, int, int]:
    """Runs that finished, stale ones among them; all; the stale ones."""
    stale = summary.runs.get("stale", 0)
    return summary.runs.get("finished", 0) + stale, sum(summary.runs.values()), stale


def duration_text(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Terminal -----------------------------------------------------------------------------------


def show(summary: StudySummary) -> None:
    """Print the report of one study: tables on a terminal, plain text elsewhere."""
    title = str(summary.paper.get("title") or summary.name)
    header, rows = arms_table(summary, without=["peak_memory_mb"])
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(title, style="bold", highlight=False)
        console.print(f"{summary.name}: {runs_text(summary)}", highlight=False)
        console.print(_rich(header, rows))
        console.print(verdict_table(summary.verdicts, title=tally(summary.verdicts)))
    else:
        print(f"{title}\n{summary.name}: {runs_text(summary)}\n")
        print(_aligned(header, rows))
        print(f"\n{tally(summary.verdicts)}")
        print(verdict_lines(summary.verdicts))
    for name in summary.unclaimed:
        print(f"not decided: {name} (arms that it compares were not run)")
    for name, verdict in summary.committed.items():
        print(f"committed otherwise: {name} {verdict}")
    for problem in summary.problems:
        print(f"without a result: {problem}")
    for _, path in summary.figures:
        print(f"figure: {path}")
    for command in summary.commands:
        print(f"repeat it: {command}")


def show_index(summaries: Sequence[StudySummary]) -> None:
    """Print the overview of all studies."""
    header, rows = index_table(summaries)
    if not rows:
        print("no study has been run here; `replicata study <family>/<slug>` runs one")
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(_rich(header, rows))
    else:
        print(_aligned(header, rows))


def _rich(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(header):
        text = Text(name.replace("/", "/\n").replace(", ", "\n"))
        table.add_column(text, justify="right" if at else "left", no_wrap=not at, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
    lines = []
    for row in [header, *rows]:
        first, *rest = [cell.ljust(widths[at]) if at == 0 else cell.rjust(widths[at]) for at, cell in enumerate(row)]
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


# Pieces -------------------------------------------------------------------------------------


def _factors(arms: Sequence[ArmSummary]) -> list[str]:
    return list(dict.fromkeys(factor for arm in arms for factor, _ in arm.levels))


def _mean(arm: ArmSummary, metric: str) -> str:
    found = arm.metrics.get(metric)
    if found is None:
        return ""
    text = estimate_text(found.effect, found.interval).removesuffix(" exactly").removesuffix(", no interval")
    return text if found.n == arm.done else f"{text} (n = {found.n})"


def _cost(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _claim_cells(verdict: Verdict) -> list[str]:
    why = reason_text(verdict)
    said = f"**{verdict.verdict}**" + (f": {_plain(why)}" if why else "")
    claim = f"`{verdict.id}`{_plain(heading(verdict).removeprefix(verdict.id))}<br>{_plain(verdict.statement)}"
    numbers = [effect_text(verdict), _plain(verdict.region), str(verdict.n)]
    return [claim, said, *numbers, _plain(paper_text(verdict.paper))]


def _part_lines(verdict: Verdict) -> list[str]:
    """The tests that a claim is made of."""
    if not verdict.parts:
        return []
    return [f"- `{verdict.id}` is made of", *(line for part in verdict.parts for line in _finding_lines(part, "  "))]


def _finding_lines(part: Finding, indent: str) -> list[str]:
    numbers = f"{estimate_text(part.effect, part.interval)}, n = {part.n}"
    why = f" ({_plain('; '.join(part.reasons))})" if part.reasons else ""
    lines = [f"{indent}- {_plain(part.test)}: **{part.verdict}**, {numbers}{why}"]
    return lines + [line for inner in part.parts for line in _finding_lines(inner, indent + "  ")]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _plain(text: Any) -> str:
    """Text that Markdown and HTML leave as it is."""
    escaped = str(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{sign}" if sign in "*_`[]" else sign for sign in escaped)


def _list(head: str, items: Sequence[str]) -> str:
    return f"{head}:\n\n" + "\n".join(f"- {item}" for item in items) if items else ""


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()

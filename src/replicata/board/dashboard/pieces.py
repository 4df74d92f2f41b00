"""What pages are made of: a record's or a summary's parts in the words and forms in which pages show them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from replicata.board.dashboard import charts
from replicata.board.dashboard.charts import Series
from replicata.board.dashboard.runs import Entry
from replicata.board.report import arms_table, duration_text
from replicata.board.samples import Curve
from replicata.board.summary import StudySummary
from replicata.board.tables import effect_text, estimate_text
from replicata.study.claims import Finding, Verdict
from replicata.study.schema import Claim

LOG_BYTES = 64 * 1024
LOG_LINES = 400


def slug(text: str) -> str:
    """Text as an identifier of an element."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", text).strip("-") or "x"


def run_title(run: Mapping[str, Any]) -> str:
    """What a run is called in a legend or list."""
    name = run["arm"] or f"{run['name']} {str(run['hash'])[:6]}"
    return f"{name} seed {run['seed']}" if run["seed"] is not None else name


def swatch(at: int) -> Markup:
    """A line in the colour of the series with this number."""
    return Markup(charts.swatch(at))


def duration(seconds: Any) -> str:
    """Seconds in words; nothing if there are none."""
    return "" if seconds is None else duration_text(float(seconds))


def when(text: Any) -> Markup:
    """A time of a record, to the minute, in UTC."""
    if not text:
        return Markup("")
    try:
        at = datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return escape(str(text))
    return Markup(f'<time datetime="{at.isoformat()}" title="{at:%Y-%m-%d %H:%M:%S} UTC">{at:%Y-%m-%d %H:%M}</time>')


def day(text: Any) -> Markup:
    """The day of a record's time, the time itself on hovering."""
    whole = when(text)
    return Markup(re.sub(r"(>\d{4}-\d\d-\d\d) \d\d:\d\d<", r"\1<", str(whole)))


def counted(word: str, number: int) -> str:
    """A verdict after a number: 3 hold, 1 holds."""
    return word.removesuffix("s") if number != 1 and word in ("holds", "fails") else word


def why_not(claim: Claim, summary: StudySummary | None) -> str:
    """Why a claim has no verdict here."""
    if summary is None:
        return "its study has not been run here"
    if claim.id in summary.unclaimed:
        return "arms that it compares were not run, or `replicata report` has to decide it"
    return ""


def finding(part: Finding) -> dict[str, Any]:
    """A claim's part as its page shows it."""
    return {
        "test": part.test,
        "verdict": part.verdict,
        "effect": estimate_text(part.effect, part.interval),
        "n": part.n,
        "region": part.region,
        "reason": "; ".join(part.reasons),
        "chart": charts.interval_chart(part.interval, part.effect, part.region, part.verdict),
        "parts": [finding(inner) for inner in part.parts],
    }


def paper_and_ours(claim: Claim, verdict: Verdict | None, summary: StudySummary | None) -> list[dict[str, str]]:
    """The paper's own figures beside ours: of arms their means, and of a single one that is no arm's the effect."""
    if not isinstance(claim.paper, Mapping):
        return []
    metrics = [test.metric for test in claim.tests if test.metric]
    rows = []
    for name, value in claim.paper.items():
        if name in ("unit", "where"):
            continue
        ours = ""
        for arm in summary.arms if summary is not None else ():
            found = arm.metrics.get(metrics[0]) if metrics and arm.arm == name else None
            if found is not None:
                level = ", ".join(map("=".join, arm.levels))
                said = estimate_text(found.effect, found.interval).removesuffix(", no interval")
                ours += ("; " if ours else "") + (f"{said} ({level})" if level else said)
        if not ours and verdict is not None and sum(key not in ("unit", "where") for key in claim.paper) == 1:
            ours = effect_text(verdict)
        unit = str(claim.paper.get("unit", ""))
        rows.append(
            {
                "arm": str(name),
                "paper": f"{value} {unit}".strip(),
                "ours": ours,
                "metric": metrics[0] if metrics else "",
            }
        )
    return rows


def arms(summary: StudySummary) -> dict[str, Any]:
    """The table of arms, each with the command that runs it."""
    header, rows = arms_table(summary, without=["peak_memory_mb"] if len(summary.arms) > 40 else [])
    commands = [arm.command for arm in summary.arms]
    return {"header": header, "rows": list(zip(rows, commands, strict=True))}


def series(curve: Curve) -> Series:
    """The mean over seeds, with its band where there are several."""
    several = max(curve.n) > 1
    low, high = (curve.low, curve.high) if several else (None, None)
    return Series(curve.name, curve.x, curve.mean, low, high, f"n = {max(curve.n)}")


def metric_table(entry: Entry, indexed: Mapping[str, float]) -> list[tuple[str, Any, Any]]:
    """Final metrics, also those that are not finite, and those of the selected weights."""
    said = entry.record.get("metrics")
    final: Mapping[str, Any] = said if isinstance(said, Mapping) and said else indexed
    selected = entry.record.get("selected")
    own = selected.get("metrics") if isinstance(selected, Mapping) else None
    best: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
    return [(name, final.get(name), best.get(name)) for name in sorted({*final, *best})]


def panels(record: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Metrics of the arms that a run reports itself: their names, and each arm with its values."""
    arms = record.get("arms")
    arms = {name: own for name, own in arms.items() if isinstance(own, Mapping)} if isinstance(arms, Mapping) else {}
    names = sorted({metric for own in arms.values() for metric in own})
    return names, [(name, [own.get(metric) for metric in names]) for name, own in arms.items()]


def sections(entry: Entry) -> list[dict[str, Any]]:
    """The config by its groups."""
    groups: dict[str, list[tuple[str, Any]]] = {}
    for key, value in entry.config.items():
        head, _, tail = key.partition(".")
        groups.setdefault(head if tail else "run", []).append((tail or key, value))
    order = ["method", "model", "data", "optimizer", "scheduler", "trainer", "run"]
    names = sorted(groups, key=lambda name: (order.index(name) if name in order else len(order), name))
    return [
        {"name": name, "items": [(key, text(value)) for key, value in groups[name]], "open": name in order[:4]}
        for name in names
    ]


def text(value: Any) -> str:
    """A value as in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def tables(directory: Path) -> list[tuple[str, int]]:
    """Names and sizes of what a run wrote as tables."""
    folder = directory / "tables"
    return [(path.stem, path.stat().st_size) for path in sorted(folder.glob("*.parquet"))] if folder.is_dir() else []


def provenance(entry: Entry) -> list[tuple[str, str]]:
    """What a run stands on, in rows."""
    record = entry.record
    git, hardware, data = (mapping(record.get(key)) for key in ("git", "hardware", "data"))
    gpus = hardware.get("gpus") or []
    rows = [
        ("started", str(record.get("started") or "")),
        ("ended", str(record.get("ended") or "")),
        ("resumed", f"{record['resumed']} times" if record.get("resumed") else ""),
        ("git revision", f"{git.get('revision', '')}{' (dirty)' if git.get('dirty') else ''}" if git else ""),
        ("code fingerprint", entry.code),
        ("config hash", entry.hash),
        ("data", str(data.get("target", ""))),
        ("data fingerprint", str(data.get("fingerprint", ""))),
        ("processor", " ".join(str(hardware[key]) for key in ("processor", "instructions") if key in hardware)),
        ("cores, memory", f"{hardware.get('cores')}, {hardware.get('memory_gb')} GB" if hardware else ""),
        ("GPUs", ", ".join(map(str, gpus))),
        ("threads", str(record.get("threads") or "")),
    ]
    versions = record.get("versions")
    if isinstance(versions, Mapping):
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return [(name, value) for name, value in rows if value]


def mapping(value: Any) -> Mapping[str, Any]:
    """A part of a record that may be anything."""
    return value if isinstance(value, Mapping) else {}


def log_tail(path: Path) -> str:
    """The last lines of a log, as text."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.splitlines()
    return "\n".join(lines[-LOG_LINES:] if size <= LOG_BYTES else lines[1:][-LOG_LINES:])


def inside(path: Path, outputs: Path) -> str:
    """A directory as its place below the outputs folder; empty where it is not below it."""
    absolute = Path(os.path.abspath(path))
    return absolute.relative_to(outputs).as_posix() if absolute.is_relative_to(outputs) else ""


def shown(directory: Path) -> str:
    """A directory as one would type it here."""
    here = Path.cwd()
    return shlex.quote(str(directory.relative_to(here) if directory.is_relative_to(here) else directory))

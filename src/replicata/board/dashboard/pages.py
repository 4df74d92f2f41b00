"""Every page as HTML, for the server and for files alike; nothing here knows which of the two it is for.

    pages = Pages(library, index, repeater, Served())
    pages.board()
    pages.run("graph/dagnn/3f45f6fa5373/seed0")      # raises NoPage where there is none

All text that comes from records, logs and configs is escaped by the templates. What is marked as safe is made in
:mod:`.charts` and :mod:`.prose`, which escape what they are given.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from replicata.board.dashboard import charts, prose
from replicata.board.dashboard.charts import Axis, Series, number
from replicata.board.dashboard.index import Index
from replicata.board.dashboard.papers import NOT_RUN, WORDS, Library, decided
from replicata.board.dashboard.query import FROM, PAGE, RunQuery, different, select
from replicata.board.dashboard.repeat import Command, Repeater
from replicata.board.dashboard.runs import STATES, Entry, progress, read
from replicata.board.dashboard.sweeps import Sweep, higher_is_better, read_sweep, sweeps
from replicata.board.report import arms_table, duration_text
from replicata.board.samples import Curve
from replicata.board.style import label
from replicata.board.summary import StudySummary
from replicata.board.tables import effect_text, estimate_text, paper_text, reason_text
from replicata.errors import UserError
from replicata.run import compose as composing
from replicata.study.claims import Finding, Verdict
from replicata.study.schema import Claim
from replicata.study.table import read_curves

HERE = Path(__file__).parent
LOG_BYTES = 64 * 1024
LOG_LINES = 400
MOST_COMPARED = 24
IMAGES = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")


class NoPage(LookupError):
    """There is no such page; the message says what there is not."""


@dataclass(frozen=True)
class Served:
    """Addresses on the server."""

    live: bool = True

    def board(self) -> str:
        return "/"

    def paper(self, name: str) -> str:
        return f"/papers/{quote(name)}"

    def runs(self, query: str = "") -> str:
        return f"/runs?{query}" if query else "/runs"

    def run(self, path: str) -> str:
        return f"/runs/{quote(path)}"

    def compare(self, paths: Sequence[str] = ()) -> str:
        return f"/compare?{urlencode([('run', path) for path in paths])}" if paths else "/compare"

    def sweeps(self) -> str:
        return "/sweeps"

    def sweep(self, query: str) -> str:
        return f"/sweep?{query}"

    def asset(self, name: str) -> str:
        return f"/static/{name}"

    def file(self, path: str) -> str:
        return f"/files/{quote(path)}"


class Pages:
    """Makes pages.

    Args:
        library: The papers.
        index: The runs.
        repeater: Finds runs' commands; without one, commands are not proved.
        links: Addresses.
        wanted: Called with the path of a run whose command is to be found in the background.
    """

    def __init__(
        self,
        library: Library,
        index: Index,
        repeater: Repeater,
        links: Any,
        wanted: Callable[[str], Command | bool | None] | None = None,
    ) -> None:
        self.library, self.index, self.repeater, self.links, self.wanted = library, index, repeater, links, wanted

    @cached_property
    def environment(self) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.filters |= {"number": number, "duration": _duration, "when": _when, "label": label, "slug": slug}
        environment.filters |= {"day": _day, "counted": _counted}
        environment.globals |= {"WORDS": WORDS, "STATES": STATES, "NOT_RUN": NOT_RUN, "swatch": _swatch}
        return environment

    def render(self, template: str, **context: Any) -> str:
        going = self.index.rows("SELECT count(*) FROM runs WHERE status = 'running'")[0][0]
        always = {"links": self.links, "live": self.links.live, "running": going, "version": self.index.version}
        always["outputs"] = str(self.index.outputs)
        return self.environment.get_template(template).render(**always, **context)

    # Board ---------------------------------------------------------------------------------

    def board(self, *, wait: bool = True) -> str:
        """All papers with their verdicts; without ``wait``, those that are known already."""
        rows = self.library.board(wait=wait)
        families: dict[str, list[Any]] = {}
        for row in rows:
            families.setdefault(row.family, []).append(row)
        totals = {word: sum(row.count(word) for row in rows) for word in WORDS}
        runs = self.index.rows("SELECT count(*) FROM runs")[0][0]
        seconds = sum(row.seconds for row in rows)
        return self.render(
            "board.html", page="board", families=families, rows=rows, totals=totals, runs=runs, seconds=seconds
        )

    # Paper ---------------------------------------------------------------------------------

    def paper(self, name: str) -> str:
        """One paper: what it says, and what came out."""
        if name not in self.library.names():
            raise NoPage(f"there is no paper {name!r}")
        said = self.library.described(name)
        paper = said.get("paper") or {}
        problem, summary, curves = "", None, []
        try:
            summary = self.library.study(name)
            curves = self._curve_charts(name) if summary is not None else []
        except UserError as error:
            problem = str(error)
        study = None
        try:
            study = self.library.parsed(name)
        except UserError as error:
            problem = problem or str(error)
        source = composing.find("experiment", name, self.library.dirs)
        states = self.index.rows("SELECT status, count(*) FROM runs WHERE name = ? GROUP BY 1", [name])
        return self.render(
            "paper.html",
            page="board",
            name=name,
            paper=paper,
            prose=prose.of_experiment(name, self.library.dirs),
            summary=summary,
            problem=problem,
            claims=self._claims(summary, study),
            arms=_arms(summary) if summary is not None else None,
            curves=curves,
            figures=self._figures(summary),
            states={row[0]: row[1] for row in states},
            commands=self._paper_commands(name, summary),
            config=source.read_text(encoding="utf-8") if source is not None else "",
            config_name=f"configs/experiment/{name}.yaml",
        )

    def _claims(self, summary: StudySummary | None, study: Any) -> list[dict[str, Any]]:
        pairs: Iterable[tuple[Claim, Verdict | None]]
        if summary is not None:
            pairs = decided(summary)
        else:
            pairs = [(claim, None) for claim in (study.claims if study is not None else ())]
        return [self._claim(claim, verdict, summary) for claim, verdict in pairs]

    def _claim(self, claim: Claim, verdict: Verdict | None, summary: StudySummary | None) -> dict[str, Any]:
        return {
            "id": claim.id,
            "statement": claim.statement,
            "role": claim.role,
            "strength": claim.strength or "",
            "verdict": verdict.verdict if verdict else NOT_RUN,
            "effect": effect_text(verdict) if verdict else "",
            "region": verdict.region if verdict else "",
            "n": verdict.n if verdict else 0,
            "method": verdict.method if verdict else "",
            "reason": reason_text(verdict) if verdict else _why_not(claim, summary),
            "chart": charts.interval_chart(verdict.interval, verdict.effect, verdict.region, verdict.verdict)
            if verdict
            else "",
            "tests": [str(test) for test in claim.tests],
            "given": [str(test) for test in claim.given],
            "parts": [_part(part) for part in verdict.parts] if verdict else [],
            "paper": paper_text(claim.paper),
            "figures": _paper_and_ours(claim, verdict, summary),
            "where": str(claim.paper.get("where", "")) if isinstance(claim.paper, Mapping) else "",
            "committed": summary.committed.get(claim.id, "") if summary is not None else "",
        }

    def _curve_charts(self, name: str) -> list[dict[str, Any]]:
        drawn = []
        for metric, facets in self.library.curves(name):
            parts = []
            for level, curves, notes in facets:
                series = [_series(curve) for curve in curves]
                title = f"{label(metric)}, {level}" if level else label(metric)
                parts.append((level, charts.line_chart(title, series, wide=len(facets) == 1), notes))
            drawn.append({"metric": metric, "facets": parts})
        return drawn

    def _figures(self, summary: StudySummary | None) -> list[dict[str, str]]:
        found = []
        for figure, path in summary.figures if summary is not None else ():
            drawing = path.with_suffix(".svg") if path.with_suffix(".svg").is_file() else path
            inside = drawing.resolve()
            if inside.is_relative_to(self.index.outputs):
                address = self.links.file(inside.relative_to(self.index.outputs).as_posix())
                found.append({"title": figure.title, "id": figure.id, "address": address})
        return found

    def _paper_commands(self, name: str, summary: StudySummary | None) -> list[tuple[str, str]]:
        lines = [("one run of the method", f"replicata run experiment={name}")]
        lines.append(("the same in seconds", f"replicata run experiment={name} --smoke"))
        if self.library.described(name).get("study"):
            said = list(summary.commands) if summary is not None else [f"replicata study {shlex.quote(name)}"]
            lines += [("the whole study, on all cores", f"{line} launcher=local") for line in said]
        if composing.find("experiment", f"{name}_paper", self.library.dirs):
            lines.append(("the paper's own scale", f"replicata run experiment={name}_paper"))
        return lines

    # Runs ----------------------------------------------------------------------------------

    def runs(self, asked: RunQuery, *, limit: int = PAGE) -> str:
        """The table of runs."""
        found = select(self.index, asked, limit=limit)
        known = self.index.rows("SELECT DISTINCT kind, key FROM keys ORDER BY kind DESC, key")
        names = self.index.rows("SELECT name, count(*) FROM runs GROUP BY 1 ORDER BY 1")
        rows = found.rows
        if not asked.group:
            for row in rows:
                row["progress"] = self.index.live.get(row["path"])
        return self.render(
            "runs.html",
            page="runs",
            asked=found.query,
            found=found,
            rows=rows,
            keys=found.keys,
            experiments=[(row[0], row[1]) for row in names],
            known=[row["key"] for row in known],
            total_runs=sum(row[1] for row in names),
        )

    def run(self, path: str) -> str:
        """One run."""
        rows = self.index.rows("SELECT * FROM runs WHERE path = ?", [path])
        if not rows:
            raise NoPage(f"there is no run {path!r}")
        row = rows[0]
        entry = read(self.index.outputs, path)
        directory = self.index.outputs / path
        status = row["status"] if entry.status == "running" else entry.status
        now = progress(directory, entry.config, entry.record) if status == "running" else None
        problem = row["problem"] if status != entry.status else entry.problem
        command = self.wanted(path) if self.wanted is not None else self.repeater.plausible(path)
        study = self.index.rows("SELECT study, arm FROM planned WHERE directory = ?", [path])
        siblings = self.index.rows(
            "SELECT path, seed, status FROM runs WHERE name = ? AND hash = ? ORDER BY seed", [row["name"], row["hash"]]
        )
        return self.render(
            "run.html",
            page="runs",
            path=path,
            row=row,
            entry=entry,
            record=entry.record,
            status=status,
            problem=problem,
            progress=now,
            charts=self._run_charts(directory),
            metrics=_metric_table(entry, json.loads(row["metrics"])),
            panels=_panels(entry.record),
            config=_sections(entry),
            images=self._images(path),
            tables=_tables(directory),
            log=log_tail(directory / "log.txt"),
            again=command,
            directory=_shown(directory),
            studies=[(one["study"], one["arm"]) for one in study],
            siblings=siblings,
            is_paper=row["name"] in self.library.names(),
            provenance=_provenance(entry),
            stages=self._stages(entry),
        )

    def _run_charts(self, directory: Path) -> list[Markup]:
        try:
            curves = read_curves(directory / "metrics.csv")
        except UserError:
            return []
        groups: dict[str, list[str]] = {}
        for metric, points in curves.items():
            if len(points) > 1:
                groups.setdefault(metric.rpartition("/")[2], []).append(metric)
        order = sorted(groups, key=lambda name: (name == "loss", name))
        return [
            charts.line_chart(label(name), charts.series_of(curves, groups[name]), x_label="step", wide=False)
            for name in order
        ]

    def _images(self, path: str) -> list[dict[str, str]]:
        folder = self.index.outputs / path / "figures"
        found = []
        for file in sorted(folder.glob("*")) if folder.is_dir() else ():
            twin = file.with_suffix(".svg")
            if file.suffix in IMAGES and (file.suffix == ".svg" or not twin.is_file()) and not file.is_symlink():
                found.append({"title": file.stem, "address": self.links.file(f"{path}/figures/{file.name}")})
        return found

    def _stages(self, entry: Entry) -> list[dict[str, Any]]:
        found = []
        for name, stage in (entry.record.get("stages") or {}).items():
            if not isinstance(stage, Mapping):
                continue
            directory = Path(str(stage.get("directory", "")))
            inside = _inside(directory, self.index.outputs)
            known = inside and self.index.rows("SELECT 1 FROM runs WHERE path = ?", [inside])
            found.append(
                {
                    "name": name,
                    "seconds": stage.get("seconds"),
                    "hash": stage.get("hash"),
                    "path": inside if known else "",
                }
            )
        return found

    # Compare -------------------------------------------------------------------------------

    def compare(self, paths: Sequence[str]) -> str:
        """Several runs side by side: what differs in their configs, their final metrics, their curves."""
        chosen = list(dict.fromkeys(paths))
        marks = ", ".join("?" * len(chosen))
        rows = self.index.rows(f"SELECT runs.*, configs.flat {FROM} WHERE path IN ({marks})", chosen)
        found = {row["path"]: row for row in rows}
        runs = [dict(found[path]) for path in chosen if path in found][:MOST_COMPARED]
        for run in runs:
            run["config"] = {**json.loads(run["flat"]), "seed": run["seed"]}
            run["metrics"] = json.loads(run["metrics"])
            run["title"] = run_title(run)
        names = [run["title"] for run in runs]
        for run, title in zip(runs, names, strict=True):
            run["title"] = title if names.count(title) == 1 else f"{title} · {str(run['hash'])[:6]}"
        keys = different([run["config"] for run in runs])
        metrics = sorted({name for run in runs for name in run["metrics"]})
        return self.render(
            "compare.html",
            page="runs",
            runs=runs,
            keys=keys,
            metrics=[(name, [run["metrics"].get(name) for run in runs], higher_is_better(name)) for name in metrics],
            same=len({key for run in runs for key in run["config"]}) - len(keys),
            charts=self._overlaid(runs),
            left_out=len([path for path in chosen if path in found]) - len(runs),
            unknown=[path for path in chosen if path not in found],
        )

    def _overlaid(self, runs: Sequence[Mapping[str, Any]]) -> list[Markup]:
        curves = []
        for run in runs:
            try:
                curves.append(read_curves(self.index.outputs / run["path"] / "metrics.csv"))
            except UserError:
                curves.append({})
        metrics = sorted({name for own in curves for name, points in own.items() if len(points) > 1})
        drawn = []
        for metric in metrics:
            series = [
                Series(run["title"], [point[1] + 1 for point in own[metric]], [point[2] for point in own[metric]])
                if metric in own
                else Series(run["title"], [], [])
                for run, own in zip(runs, curves, strict=True)
            ]
            drawn.append(charts.line_chart(label(metric), series, x_label="step", wide=False))
        return drawn

    # Sweeps --------------------------------------------------------------------------------

    def sweeps(self) -> str:
        """All searches, tunings and multiruns."""
        return self.render("sweeps.html", page="sweeps", sweeps=sweeps(self.index))

    def sweep(self, asked: RunQuery, metric: str = "", goal: str = "", title: str = "") -> str:
        """What overrides did to a metric."""
        problem, found, chart = "", None, Markup("")
        try:
            found = read_sweep(self.index, asked, metric, goal)
        except UserError as error:
            problem = str(error)
        command: Any = None
        if found is not None:
            chart = self._parallel(found)
            best = found.best
            if best is not None and best.get("value") is not None:
                path = best["path"]
                command = self.wanted(path) if self.wanted is not None else self.repeater.plausible(path)
        return self.render(
            "sweep.html",
            page="sweeps",
            asked=asked,
            sweep=found,
            chart=chart,
            problem=problem,
            again=command,
            title=title or (f"search {Path(asked.search).name}" if asked.search else "sweep"),
            run_title=run_title,
        )

    def _parallel(self, sweep: Sweep) -> Markup:
        done = [run for run in sweep.runs if run["value"] is not None]
        if len(done) < 2 or not sweep.keys:
            return Markup("")
        axes = [Axis.of(key, [run["values"][key] for run in done]) for key in sweep.keys]
        axes.append(Axis.of(sweep.metric, [run["value"] for run in done]))
        return charts.parallel_chart(f"{sweep.metric} by overrides", axes, [run_title(run) for run in done], 0)

    # Trouble -------------------------------------------------------------------------------

    def missing(self, message: str) -> str:
        """The page that says that there is none."""
        return self.render("missing.html", page="", message=message)


# Pieces -------------------------------------------------------------------------------------


def slug(text: str) -> str:
    """Text as an identifier of an element."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", text).strip("-") or "x"


def run_title(run: Mapping[str, Any]) -> str:
    """What a run is called in a legend or list."""
    name = run["arm"] or f"{run['name']} {str(run['hash'])[:6]}"
    return f"{name} seed {run['seed']}" if run["seed"] is not None else name


def _swatch(at: int) -> Markup:
    return Markup(charts.swatch(at))


def _duration(seconds: Any) -> str:
    return "" if seconds is None else duration_text(float(seconds))


def _when(text: Any) -> Markup:
    """A time of a record, to the minute, in UTC."""
    if not text:
        return Markup("")
    try:
        at = datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return escape(str(text))
    return Markup(f'<time datetime="{at.isoformat()}" title="{at:%Y-%m-%d %H:%M:%S} UTC">{at:%Y-%m-%d %H:%M}</time>')


def _day(text: Any) -> Markup:
    """The day of a record's time, the time itself on hovering."""
    whole = _when(text)
    return Markup(re.sub(r"(>\d{4}-\d\d-\d\d) \d\d:\d\d<", r"\1<", str(whole)))


def _counted(word: str, number: int) -> str:
    """A verdict after a number: 3 hold, 1 holds."""
    return word.removesuffix("s") if number != 1 and word in ("holds", "fails") else word


def _why_not(claim: Claim, summary: StudySummary | None) -> str:
    if summary is None:
        return "its study has not been run here"
    if claim.id in summary.unclaimed:
        return "arms that it compares were not run, or `replicata report` has to decide it"
    return ""


def _part(part: Finding) -> dict[str, Any]:
    return {
        "test": part.test,
        "verdict": part.verdict,
        "effect": estimate_text(part.effect, part.interval),
        "n": part.n,
        "region": part.region,
        "reason": "; ".join(part.reasons),
        "chart": charts.interval_chart(part.interval, part.effect, part.region, part.verdict),
        "parts": [_part(inner) for inner in part.parts],
    }


def _paper_and_ours(claim: Claim, verdict: Verdict | None, summary: StudySummary | None) -> list[dict[str, str]]:
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


def _arms(summary: StudySummary) -> dict[str, Any]:
    header, rows = arms_table(summary, without=["peak_memory_mb"] if len(summary.arms) > 40 else [])
    commands = [arm.command for arm in summary.arms]
    return {"header": header, "rows": list(zip(rows, commands, strict=True))}


def _series(curve: Curve) -> Series:
    """The mean over seeds, with its band where there are several."""
    several = max(curve.n) > 1
    low, high = (curve.low, curve.high) if several else (None, None)
    return Series(curve.name, curve.x, curve.mean, low, high, f"n = {max(curve.n)}")


def _metric_table(entry: Entry, indexed: Mapping[str, float]) -> list[tuple[str, Any, Any]]:
    """Final metrics, also those that are not finite, and those of the selected weights."""
    said = entry.record.get("metrics")
    final: Mapping[str, Any] = said if isinstance(said, Mapping) and said else indexed
    selected = entry.record.get("selected")
    own = selected.get("metrics") if isinstance(selected, Mapping) else None
    best: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
    return [(name, final.get(name), best.get(name)) for name in sorted({*final, *best})]


def _panels(record: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    arms = record.get("arms")
    arms = {name: own for name, own in arms.items() if isinstance(own, Mapping)} if isinstance(arms, Mapping) else {}
    names = sorted({metric for own in arms.values() for metric in own})
    return names, [(name, [own.get(metric) for metric in names]) for name, own in arms.items()]


def _sections(entry: Entry) -> list[dict[str, Any]]:
    """The config by its groups."""
    groups: dict[str, list[tuple[str, Any]]] = {}
    for key, value in entry.config.items():
        head, _, tail = key.partition(".")
        groups.setdefault(head if tail else "run", []).append((tail or key, value))
    order = ["method", "model", "data", "optimizer", "scheduler", "trainer", "run"]
    names = sorted(groups, key=lambda name: (order.index(name) if name in order else len(order), name))
    return [
        {"name": name, "items": [(key, _value(value)) for key, value in groups[name]], "open": name in order[:4]}
        for name in names
    ]


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tables(directory: Path) -> list[tuple[str, int]]:
    folder = directory / "tables"
    return [(path.stem, path.stat().st_size) for path in sorted(folder.glob("*.parquet"))] if folder.is_dir() else []


def _provenance(entry: Entry) -> list[tuple[str, str]]:
    """What a run stands on, in rows."""
    record = entry.record
    git, hardware, data = (_mapping(record.get(key)) for key in ("git", "hardware", "data"))
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


def _mapping(value: Any) -> Mapping[str, Any]:
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


def _inside(path: Path, outputs: Path) -> str:
    """A directory as its place below the outputs folder; empty where it is not below it."""
    absolute = Path(os.path.abspath(path))
    return absolute.relative_to(outputs).as_posix() if absolute.is_relative_to(outputs) else ""


def _shown(directory: Path) -> str:
    """A directory as one would type it here."""
    here = Path.cwd()
    return shlex.quote(str(directory.relative_to(here) if directory.is_relative_to(here) else directory))

"""Every page as HTML, for the server and for files alike; nothing here knows which of the two it is for.

    pages = Pages(library, index, repeater, Served())
    pages.board()
    pages.run("graph/dagnn/3f45f6fa5373/seed0")      # raises NoPage where there is none

All text that comes from records, logs and configs is escaped by the templates. What is marked as safe is made in
:mod:`.charts` and :mod:`.prose`, which escape what they are given.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from replicata.board.dashboard import charts, pieces, prose
from replicata.board.dashboard.charts import Axis, Series, number
from replicata.board.dashboard.index import Index
from replicata.board.dashboard.papers import NOT_RUN, WORDS, Library, decided
from replicata.board.dashboard.query import FROM, PAGE, RunQuery, different, select
from replicata.board.dashboard.repeat import Command, Repeater
from replicata.board.dashboard.runs import STATES, Entry, progress, read
from replicata.board.dashboard.sweeps import Sweep, higher_is_better, read_sweep, sweeps
from replicata.board.style import label
from replicata.board.summary import StudySummary
from replicata.board.tables import effect_text, paper_text, reason_text
from replicata.errors import UserError
from replicata.run import compose as composing
from replicata.study.claims import Verdict
from replicata.study.schema import Claim
from replicata.study.table import read_curves

HERE = Path(__file__).parent
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
        environment.filters |= {
            "number": number,
            "duration": pieces.duration,
            "when": pieces.when,
            "label": label,
            "slug": pieces.slug,
        }
        environment.filters |= {"day": pieces.day, "counted": pieces.counted}
        environment.globals |= {"WORDS": WORDS, "STATES": STATES, "NOT_RUN": NOT_RUN, "swatch": pieces.swatch}
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
            arms=pieces.arms(summary) if summary is not None else None,
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
            "reason": reason_text(verdict) if verdict else pieces.why_not(claim, summary),
            "chart": charts.interval_chart(verdict.interval, verdict.effect, verdict.region, verdict.verdict)
            if verdict
            else "",
            "tests": [str(test) for test in claim.tests],
            "given": [str(test) for test in claim.given],
            "parts": [pieces.finding(part) for part in verdict.parts] if verdict else [],
            "paper": paper_text(claim.paper),
            "figures": pieces.paper_and_ours(claim, verdict, summary),
            "where": str(claim.paper.get("where", "")) if isinstance(claim.paper, Mapping) else "",
            "committed": summary.committed.get(claim.id, "") if summary is not None else "",
        }

    def _curve_charts(self, name: str) -> list[dict[str, Any]]:
        drawn = []
        for metric, facets in self.library.curves(name):
            parts = []
            for level, curves, notes in facets:
                series = [pieces.series(curve) for curve in curves]
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
            metrics=pieces.metric_table(entry, json.loads(row["metrics"])),
            panels=pieces.panels(entry.record),
            config=pieces.sections(entry),
            images=self._images(path),
            tables=pieces.tables(directory),
            log=pieces.log_tail(directory / "log.txt"),
            again=command,
            directory=pieces.shown(directory),
            studies=[(one["study"], one["arm"]) for one in study],
            siblings=siblings,
            is_paper=row["name"] in self.library.names(),
            provenance=pieces.provenance(entry),
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
            inside = pieces.inside(directory, self.index.outputs)
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
            run["title"] = pieces.run_title(run)
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
            run_title=pieces.run_title,
        )

    def _parallel(self, sweep: Sweep) -> Markup:
        done = [run for run in sweep.runs if run["value"] is not None]
        if len(done) < 2 or not sweep.keys:
            return Markup("")
        axes = [Axis.of(key, [run["values"][key] for run in done]) for key in sweep.keys]
        axes.append(Axis.of(sweep.metric, [run["value"] for run in done]))
        return charts.parallel_chart(f"{sweep.metric} by overrides", axes, [pieces.run_title(run) for run in done], 0)

    # Trouble -------------------------------------------------------------------------------

    def missing(self, message: str) -> str:
        """The page that says that there is none."""
        return self.render("missing.html", page="", message=message)

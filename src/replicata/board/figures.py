"""Declared figures: from a study's ``figures`` and its table of runs to PNG and SVG.

    figure = draw(study.figures[0], table, problems)          # a matplotlib figure
    drawn = draw_all(table, folder / "figures")               # <id>.png and <id>.svg of every figure

The board knows no method: a run records tables and curves, the study says which of them it shows of which arms
(docs/figures.md). What cannot be shown is one line that names figure, run and table; the other figures are drawn all
the same. The same data give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from replicata.board.kinds import DRAW
from replicata.board.samples import collect
from replicata.board.style import FAINT, HEIGHT, STYLE, WIDTH
from replicata.errors import RunError, UserError
from replicata.run.record import write_atomic
from replicata.study.schema import Figure
from replicata.study.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

MOST_NOTES = 3  # below a figure


DRAWN = ".drawn.json"


@dataclass(frozen=True)
class Drawn:
    """A figure and its files; a figure that could not be drawn has none. Problems are single lines."""

    figure: Figure
    files: tuple[Path, ...]
    problems: tuple[str, ...]


def draw_all(table: Table, folder: Path) -> list[Drawn]:
    """Draw every figure of a study into a folder; one that was drawn before of the same runs stays as it is.

    Args:
        table: The study's runs.
        folder: Where ``<id>.png`` and ``<id>.svg`` go.
    """
    drawn = []
    now = drawn_from(table) if table.study.figures else ""
    before = _read_drawn(folder / DRAWN, now)
    for figure in table.study.figures:
        problems: list[str] = []
        files: tuple[Path, ...] = (folder / f"{figure.id}.png", folder / f"{figure.id}.svg")
        if figure.id in before and all(path.is_file() for path in files):
            drawn.append(Drawn(figure, files, tuple(before[figure.id])))
            continue
        files = ()
        try:
            files = save(draw(figure, table, problems), folder / figure.id)
        except UserError as error:
            problems = [str(error)]
        except Exception as error:  # one figure that cannot be drawn is no reason to miss the others
            problems = [f"figure {figure.id}: {type(error).__name__}: {' '.join(str(error).split())}"]
        drawn.append(Drawn(figure, files, tuple(problems)))
    again = {one.figure.id: list(one.problems) for one in drawn if one.files and _traceable(one.figure, table)}
    if again != before:
        with suppress(RunError):  # a full disk: they are drawn again next time
            write_atomic(folder / DRAWN, json.dumps({"from": now, "problems": again}))
    return drawn


def drawn_from(table: Table) -> str:
    """Digest of all that figures depend on: what the study says, the files of its runs, our code and matplotlib.

    Files count by size and time of their last change; to read them all takes longer than to draw some figures.
    """
    own = Path(__file__).parents[1]
    paths = [*sorted((own / "board").glob("*.py")), *sorted((own / "study").rglob("*.py"))]
    for directory in dict.fromkeys(row.directory for row in table if row.directory is not None):
        paths += [directory / "run.json", directory / "metrics.csv", *sorted(directory.glob("tables/*.parquet"))]
    found = [(str(path), stat.st_mtime_ns, stat.st_size) for path in paths if (stat := _stat(path)) is not None]
    states = [(row.arm, row.levels, row.seed, row.status) for row in table]
    content = (repr(table.study), states, found, metadata.version("matplotlib"))
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _traceable(figure: Figure, table: Table) -> bool:
    """Whether the digest holds all that a figure shows: not image files, nor what a function of the paper says."""
    derived = [table.study.derived.get(str(name)) for name in (figure.metric, figure.x, figure.y)]
    return figure.kind != "images" and not any(one is not None and one.function for one in derived)


def _read_drawn(path: Path, now: str) -> dict[str, list[str]]:
    """The figures that were drawn from the same, with their problems."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept["problems"] if kept.get("from") == now else {}


def draw(figure: Figure, table: Table, problems: list[str] | None = None) -> Canvas:
    """Draw one figure.

    Args:
        figure: What to show.
        table: The runs to show it of.
        problems: Is given a line for each way in which runs have nothing to show.

    Raises:
        UserError: if nothing at all can be shown.
    """
    from matplotlib.figure import Figure as Canvas

    samples = collect(figure, table)
    if not samples.found:
        raise UserError("; ".join(samples.problems) or f"figure {figure.id}: there is no run to show")
    if problems is not None:
        problems += samples.problems
    with styled():
        canvas = Canvas(figsize=(WIDTH, HEIGHT))
        said_below = DRAW[figure.kind](canvas, samples)
        canvas.suptitle(textwrap.fill(figure.title, 78), x=0.012, ha="left", fontsize=13, fontweight="bold")
        notes = list(dict.fromkeys(samples.notes))
        notes = [*notes[:MOST_NOTES], *([f"and {len(notes) - MOST_NOTES} notes more"] * (len(notes) > MOST_NOTES))]
        caption = ". ".join(part[0].upper() + part[1:] for part in [said_below, *notes])
        canvas.supxlabel(textwrap.fill(f"{caption}.", 125), x=0.012, ha="left", fontsize=9, color=FAINT)
    return canvas


def save(canvas: Canvas, stem: Path) -> tuple[Path, Path]:
    """Write ``<stem>.png`` and ``<stem>.svg``, each whole or not at all and without a date."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = []
    with styled():
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            content = io.BytesIO()
            canvas.savefig(content, format=ending, metadata=metadata)
            files.append(stem.with_name(f"{stem.name}.{ending}"))
            write_atomic(files[-1], content.getvalue())
    return files[0], files[1]


@contextmanager
def styled() -> Iterator[None]:
    """Our style sheet, whatever the user's own says: a figure looks the same everywhere."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]  # the stubs list every key
        yield

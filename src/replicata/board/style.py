"""How figures look: one style sheet, and one colour for an arm in all figures of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from replicata.study.schema import Figure, Study

# Okabe and Ito (2008), told apart under every colour blindness; without the yellow that vanishes on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "D", "^")
RAMP = "viridis"  # for numbers: series by size, cells of a heat map
INK, FAINT, GRID = "#262626", "#6b6b6b", "#e8e8e8"

WIDTH, HEIGHT = 9.0, 4.8  # inches, read at 900 pixels
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9a9a9a",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.prop_cycle": f"cycler('color', {list(PALETTE)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.02,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "savefig.dpi": 200,
    "svg.hashsalt": "replicata",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}

WORDS = {
    "acc": "accuracy",
    "epoch": "epoch",
    "macs": "multiply-accumulates",
    "n": "examples",
    "nll": "negative log-likelihood",
    "params": "parameters",
    "step": "training step",
}
SPLITS = {"train": "training", "val": "validation", "test": "test", "cost": ""}


@dataclass(frozen=True)
class Look:
    """Colour, dash and marker of a series."""

    colour: Any
    dash: Any = "-"
    marker: str = "o"


def looks(figure: Figure, study: Study, names: Sequence[str]) -> dict[str, Look]:
    """The look of every series of a figure.

    An arm looks the same in all figures of its study. Series told apart by a number take their colours from a ramp.
    """
    if figure.by != "arm" and len(names) > 2 and all(_is_number(name) for name in names):
        from matplotlib import colormaps

        return {name: Look(colormaps[RAMP](0.9 * at / (len(names) - 1))) for at, name in enumerate(names)}
    if figure.by != "arm":
        return {name: _look(at) for at, name in enumerate(names)}
    arms = _arms(study)
    return {name: arms.get(name) or _look(at) for at, name in enumerate(names)}


def _arms(study: Study) -> dict[str, Look]:
    """A look for every arm in a figure: no two alike in one figure, and the plainest that are left."""
    shown = [figure.arms for figure in study.figures if figure.by == "arm"]
    rank: dict[str, int] = {}
    for arm in dict.fromkeys(arm for arms in shown for arm in arms):
        taken = {rank[other] for arms in shown if arm in arms for other in arms if other in rank}
        free = [at for at in range(len(taken) + len(PALETTE)) if at not in taken]
        plain = [at for at in free if at < len(PALETTE)]
        used = list(rank.values())
        rank[arm] = min(plain, key=used.count) if plain else free[0]
    return {arm: _look(at) for arm, at in rank.items()}


def label(name: str | None) -> str:
    """A metric or column as an axis says it: ``val/acc`` is validation accuracy."""
    split, _, metric = str(name).rpartition("/")
    words = WORDS.get(metric, metric.replace("_", " "))
    return f"{SPLITS.get(split, split)} {words}".strip()


def _look(at: int) -> Look:
    turn = at // len(PALETTE)
    return Look(PALETTE[at % len(PALETTE)], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

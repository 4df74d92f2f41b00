"""A study in Weights & Biases: one run beside those of its arms, with the verdicts as a table and the figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replicata.board.figures import Drawn
from replicata.board.tables import paper_text
from replicata.study.claims import Verdict

COLUMNS = ["claim", "statement", "verdict", "effect", "low", "high", "n", "paper", "reason"]


def rows(verdicts: Sequence[Verdict]) -> list[Any]:
    """The verdicts under :data:`COLUMNS`."""
    return [
        [
            verdict.id,
            verdict.statement,
            verdict.verdict,
            verdict.effect,
            *(verdict.interval or (None, None)),
            verdict.n,
            paper_text(verdict.paper),
            verdict.reason,
        ]
        for verdict in verdicts
    ]


def log_study(
    settings: Mapping[str, Any], name: str, verdicts: Sequence[Verdict], drawn: Sequence[Drawn], folder: Path
) -> None:
    """Log a study's end, in the group of its runs, as a run of job type ``study``.

    A dashboard that fails is one line: the study's own files are written before.

    Args:
        settings: The ``logger.wandb`` node.
        name: The experiment, which is the group.
        verdicts: What the claims came to.
        drawn: The figures.
        folder: The study's folder; offline runs are kept in it.
    """
    import wandb

    from replicata.run.wandb_logger import wandb_mode

    mode, why = wandb_mode()
    try:
        run = wandb.init(
            project=settings.get("project"),
            entity=settings.get("entity"),
            dir=str(folder),
            name=f"{name} verdicts",
            group=name,
            job_type="study",
            tags=[*dict.fromkeys([*(settings.get("tags") or []), *name.split("/"), "study"])],
            reinit="create_new",
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )
        media: dict[str, Any] = {"verdicts": wandb.Table(columns=list[Any](COLUMNS), data=rows(verdicts))}
        for figure in drawn:
            for path in figure.files:
                if path.suffix == ".png":
                    media[f"figures/{figure.figure.id}"] = wandb.Image(str(path))
        run.log(media)
        run.summary.update({f"verdict/{verdict.id}": verdict.verdict for verdict in verdicts})
        run.finish()
    except Exception as error:  # whatever a dashboard may raise is no reason to lose a study
        print(f"replicata: W&B: {error}; the study's own files are complete", file=sys.stderr)
        return
    where = f"kept offline ({why}): wandb sync {folder / 'wandb'}" if why else run.url
    print(f"replicata: W&B: verdicts {where}", file=sys.stderr)

"""How long a study of 1,000 finished runs takes to be read, judged and shown, as whole processes.

    python scripts/benchmark_records.py [--repeats 3] [--seeds 50]

The records are made here and written by the code that writes a run's: ten arms at two levels with fifty seeds, a claim
for each arm but the first, a derived column over their curves. `replicata study` finds all of them finished, so it
plans, reads the records, decides the claims, and leaves the figure that it has drawn the first time; `replicata report`
reads, decides and writes its pages. The seconds are medians, and ratios to the bare import of torch and Lightning,
which neither command needs.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from functools import partial
from pathlib import Path

import yaml

from replicata.run import compose as composing
from replicata.run.record import write_record
from replicata.study.parse import parse
from replicata.study.plan import expand
from replicata.study.run import Planner
from turns import compare

NAME = "records"
ARMS = 10
EPOCHS = 20


def experiment(seeds: int) -> dict:
    """An MLP on digits, its arms at different widths."""
    others = [f"w{8 * number}" for number in range(2, ARMS + 1)]
    claims = [
        {
            "id": f"{name}_better",
            "statement": "A wider network is more accurate.",
            "test": {"kind": "greater", "metric": metric, "arm": name, "than": "w8", "over": {"depth": "each"}},
        }
        for name in others
        for metric in (["test/acc", "val/acc_mean"][name == others[0]],)
    ]
    figure = {"id": "accuracy", "kind": "bars", "title": "Accuracy", "metric": "test/acc", "by": "depth"}
    return {
        "defaults": [{"override /data": "vision/digits"}, {"override /model": "mlp"}, "_self_"],
        "study": {
            "seeds": seeds,
            "factors": {"depth": {"one": [], "two": ["+model.extra=2"]}},
            "arms": {f"w{8 * number}": [f"+model.width={8 * number}"] for number in range(1, ARMS + 1)},
            "derived": {"val/acc_mean": {"curve": "val/acc", "reduce": "mean"}},
            "claims": claims,
            "figures": [figure],
        },
    }


def make(folder: Path, seeds: int) -> int:
    """Write the config and the records; returns how many there are."""
    conf = folder / "conf"
    (conf / "experiment").mkdir(parents=True)
    text = yaml.safe_dump(experiment(seeds), sort_keys=False)
    (conf / "experiment" / f"{NAME}.yaml").write_text(f"# @package _global_\n{text}")
    study = parse(experiment(seeds)["study"], NAME)
    planner = Planner(partial(composing.compose, extra=[conf]), NAME, folder / "outputs", "made")
    draw = random.Random(0)
    planned = planner.plan(expand(study))
    for run in planned:
        directory = run.place.directory
        directory.mkdir(parents=True)
        score = 0.8 + int(run.spec.arm[1:]) / 1000 + draw.gauss(0, 0.01)
        record = {
            **{"status": "finished", "name": NAME, "hash": run.place.hash, "seed": run.spec.seed},
            **{"code": run.place.code, "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:00+00:00"},
            **{"resumed": 0, "threads": 1, "stages": {}, "seconds": 60.0, "fit_seconds": 50.0, "batches": 1000},
            **{"git": {"revision": "0" * 40, "dirty": False}, "epochs": EPOCHS, "parameters": 10_000},
            "versions": {f"package{number}": "1.2.3" for number in range(12)},
            "hardware": {"machine": "x86_64", "processor": "Some CPU", "cores": 2, "memory_gb": 7.8, "gpus": []},
            "peak_memory_mb": {"cpu": 500.0},
            "data": {"fingerprint": "0" * 16, "target": "replicata.data.vision.digits.Digits"},
            "test": "last",
            "metrics": {
                "test/acc": score,
                "test/loss": 1 - score,
                "train/loss": 0.1,
                "val/acc": score,
                "val/loss": 0.3,
            },
            "arms": {},
        }
        write_record(directory, record)
        rows = [f"{epoch},{10 * epoch + 9},{score * (epoch + 1) / EPOCHS},0.3" for epoch in range(EPOCHS)]
        (directory / "metrics.csv").write_text("\n".join(["epoch,step,val/acc,val/loss", *rows]) + "\n")
    return len(planned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=50)
    asked = parser.parse_args()
    module = ["-m", "replicata"]
    contenders = {
        "replicata study": [*module, "study", NAME, "--config-dir", "conf"],
        "replicata report": [*module, "report", NAME, "--config-dir", "conf"],
        "replicata --help": [*module, "--help"],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{make(folder, asked.seeds)} finished runs")
        compare(contenders, folder, asked.repeats)


if __name__ == "__main__":
    main()

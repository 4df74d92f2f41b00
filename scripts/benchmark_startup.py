"""How long the command takes to start, as whole processes against the bare import.

    python scripts/benchmark_startup.py [--repeats 5]

`replicata run` is timed to the end of a run of one training step, record and checkpoint included, so its figure is
an upper bound of the time to the first step. Rounds alternate, the table gives medians.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from turns import compare

COMMANDS = {
    "replicata run, one step": [
        "-m",
        "replicata",
        "run",
        "data=vision/digits",
        "model=mlp",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=1",
        "trainer.limit_val_batches=0",
        "trainer.enable_progress_bar=false",
        "test=none",
        "force=true",
    ],
    "replicata run --cfg job": ["-m", "replicata", "run", "--cfg", "job", "experiment=adaptive/mip"],
    "replicata list": ["-m", "replicata", "list"],
    "replicata show graph/dagnn": ["-m", "replicata", "show", "graph/dagnn"],
    "replicata --help": ["-m", "replicata", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(COMMANDS, Path(folder), asked.repeats)


if __name__ == "__main__":
    main()

"""One run: where it lands, what it records, what happens when it is asked for again."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Toy = Callable[..., Any]
Records = Callable[..., dict[Path, dict[str, Any]]]


def only(found: dict[Path, dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    assert len(found) == 1, list(found)
    return next(iter(found.items()))


def test_an_outside_package_runs_and_records(toy: Toy, records: Records) -> None:
    called = toy("toy")
    assert called.status == 0, called.err
    directory, record = only(records())
    assert directory.parts[-4:-2] == ("outputs", "toy")
    assert directory.name == "seed0"
    assert record["status"] == "finished"
    assert record["schema"] == 1
    assert {"test/acc", "test/loss", "val/acc", "train/loss"} <= set(record["metrics"])
    assert record["batches"] == 4 * 14
    assert record["parameters"] == 6 * 16 + 16 + 32 + 16 * 4 + 4
    assert len(record["data"]["fingerprint"]) == 64
    for name in ("config.yaml", "metrics.csv", "log.txt", "tables/noise.parquet", "checkpoints/last.ckpt"):
        assert (directory / name).is_file(), name
    assert str(directory) in called.out


def test_metrics_csv_holds_one_row_an_epoch(toy: Toy, records: Records) -> None:
    assert toy("toy").status == 0
    directory, record = only(records())
    rows = list(csv.DictReader((directory / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["val/loss"]] == ["13", "27", "41", "55"]
    assert float(rows[-1]["train/acc"] or rows[-2]["train/acc"]) == record["metrics"]["train/acc"]


def test_a_finished_run_is_not_repeated_unless_forced(toy: Toy, records: Records) -> None:
    assert toy("toy", "trainer.max_epochs=1").status == 0
    directory, first = only(records())
    again = toy("toy", "trainer.max_epochs=1")
    assert "finished before" in again.out
    assert only(records())[1] == first
    assert toy("toy", "trainer.max_epochs=1", "force=true").status == 0
    both = records()
    assert len(both) == 2, "what was replaced is kept"
    assert both[directory]["metrics"] == first["metrics"]
    assert any("replaced" in path.parts for path in both)


def test_identity_is_what_changes_the_numbers(toy: Toy, records: Records) -> None:
    for overrides in (
        ["trainer.max_epochs=1"],
        ["trainer.max_epochs=1", "seed=1"],
        ["trainer.max_epochs=1", "trainer.log_every_n_steps=1", "paths.cache=elsewhere"],
        ["trainer.max_epochs=1", "optimizer.lr=0.01"],
    ):
        assert toy("toy", *overrides).status == 0
    found = records()
    assert len(found) == 3
    hashes = {path.parent.name for path in found}
    assert len(hashes) == 2
    seeds = [path for path in found if path.name == "seed1"]
    assert seeds[0].parent.name in {path.parent.name for path in found if path.name == "seed0"}


def test_a_sweep_lands_where_single_runs_land(toy: Toy, records: Records) -> None:
    assert toy("toy", "trainer.max_epochs=1", "seed=1").status == 0
    swept = toy("toy", "trainer.max_epochs=1", "seed=1,2", "--multirun")
    assert swept.status == 0, swept.err
    assert "finished before" in swept.out
    assert sorted(path.name for path in records()) == ["seed1", "seed2"]


def test_a_failure_in_a_sweep_leaves_the_others(toy: Toy, records: Records) -> None:
    swept = toy("toy", "trainer.max_epochs=1", "method.poison=-1,3,50", "--multirun")
    assert swept.status == 1
    now, head, row, last = swept.err.splitlines()
    label = "experiment=toy trainer.max_epochs=1 method.poison=3"
    assert now.startswith(f"replicata: {label} failed: train/loss is not finite at batch 4")
    assert head == "failed runs:"
    assert row.startswith(f"  {label}  loss not finite  train/loss is not finite at batch 4")
    assert last == "replicata: 1 run failed, listed above; the others are kept"
    assert sorted(record["status"] for record in records().values()) == ["failed", "finished", "finished"]


def test_the_same_run_twice_is_bit_identical(toy: Toy, records: Records) -> None:
    for outputs in ("a", "b"):
        assert toy("toy", f"paths.outputs={outputs}").status == 0
    (first, one), (second, two) = only(records("a")), only(records("b"))
    assert one["metrics"] == two["metrics"]
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()


def test_a_knob_at_zero_is_the_baseline_bit_for_bit(toy: Toy, records: Records) -> None:
    assert toy("toy", "method.sigma=0", "paths.outputs=a").status == 0
    assert toy("toy", "method=tasks/classification", "paths.outputs=b").status == 0
    assert only(records("a"))[1]["metrics"] == only(records("b"))[1]["metrics"]


def test_verify_repeats_a_run(toy: Toy, replicata: Toy, records: Records) -> None:
    assert toy("toy", "trainer.max_epochs=1").status == 0
    directory, record = only(records())
    assert replicata("verify", directory).status == 0
    record["metrics"]["test/acc"] += 1e-7
    (directory / "run.json").write_text(json.dumps(record))
    called = replicata("verify", directory)
    assert called.status == 1
    assert "test/acc" in called.err


def test_smoke_takes_the_experiments_own_overrides(toy: Toy, records: Records) -> None:
    assert toy("toy", "--smoke").status == 0
    assert only(records())[1]["epochs"] == 1


def test_flags_may_stand_anywhere(toy: Toy, records: Records) -> None:
    assert toy("toy", "--multirun", "seed=0,1", "--smoke", "method.sigma=0").status == 0
    assert [record["epochs"] for record in records().values()] == [1, 1]


def test_a_procedure_runs_without_an_optimizer(toy: Toy, records: Records) -> None:
    assert toy("walk").status == 0
    _, record = only(records())
    assert record["batches"] == 20
    assert set(record["metrics"]) == {"test/place", "test/mean"}


def test_tables_hold_one_row_a_record(toy: Toy, records: Records) -> None:
    import pyarrow.parquet as pq

    assert toy("toy", "trainer.max_epochs=1").status == 0
    table = pq.read_table(only(records())[0] / "tables" / "noise.parquet")
    assert table.column("batch").to_pylist() == list(range(14))


def test_stages_are_runs_of_their_own(toy: Toy, records: Records) -> None:
    assert toy("chain").status == 0
    found = {path.parts[1 + path.parts.index("outputs") :][:-2]: record for path, record in records().items()}
    assert set(found) == {
        ("chain",),
        ("chain", "stages", "parent"),
        ("chain", "stages", "parent", "stages", "grandparent"),
    }
    assert list(found[("chain",)]["stages"]) == ["parent"]
    assert found[("chain",)]["stages"]["parent"]["hash"] == found[("chain", "stages", "parent")]["hash"]
    assert toy("chain", "seed=1").status == 0
    grandparents = [path for path in records() if path.parent.parent.name == "grandparent"]
    assert [path.name for path in grandparents] == ["seed0"], "a stage with a seed of its own is shared"


def test_a_change_in_a_stage_changes_its_parents(toy: Toy, records: Records) -> None:
    assert toy("chain").status == 0
    assert toy("chain", "stages.parent.stages.grandparent.method.sigma=0.4").status == 0
    chains = {path.parent.name for path in records() if path.parent.parent.name == "chain"}
    assert len(chains) == 2


def test_cfg_job_shows_the_config_and_runs_nothing(toy: Toy, records: Records) -> None:
    called = toy("toy", "--cfg", "job")
    assert called.status == 0
    assert "sigma: 0.1" in called.out
    assert not records()


def test_command_line_answers_without_torch() -> None:
    code = (
        "import sys; from replicata.cli import main; main(['list']); main(['--help']);"
        " sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.processes
def test_ddp_in_a_sweep_equals_one_process(toy: Toy, records: Records) -> None:
    """Two gloo processes of half the batch: the same steps, uneven last batches included."""
    common = ["model=linear", "method.sigma=0", "trainer.max_epochs=2", "test=last"]
    two = toy(
        "toy", *common, "accelerator=ddp_cpu", "data.batch_size=8", "data.eval_batch_size=25", "seed=0,1", "--multirun"
    )
    assert two.status == 0, two.err
    for seed in (0, 1):
        assert toy("toy", *common, f"seed={seed}").status == 0
    found = records()
    for seed in (0, 1):
        one, other = (record["metrics"] for path, record in found.items() if path.name == f"seed{seed}")
        assert one == pytest.approx(other, abs=1e-5)


def test_the_code_fingerprint_knows_what_can_change_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replicata.run import fingerprint

    package = tmp_path / "mine"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("FACTOR = 2\n")
    method = package / "method.py"

    def now(text: str) -> str:
        method.write_text(text)
        fingerprint._find.cache_clear()
        return fingerprint.code_fingerprint(["mine.method.Method"], ["mine"])

    head = "from mine.helper import FACTOR\nfrom replicata.errors import UserError\n"
    body = head + 'class Method:\n    """Doc."""\n    x = FACTOR\n'
    first = now(body)
    assert now(body.replace("Doc.", "Another.") + "# a comment\n") == first
    assert now(body.replace("x = FACTOR", "x = 3")) != first
    (package / "helper.py").write_text("FACTOR = 20  # of other length\n")
    assert now(body) != first, "what it imports counts, too"

"""The report of studies: what it says, from records and from committed results."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from replicata.board import report, tables
from replicata.board.report import arms_csv, claims_csv, duration_text, index_markdown, markdown, show_index
from replicata.board.summary import StudySummary, summarise
from replicata.study import verdicts
from replicata.study.claims import Finding, Verdict, evaluate
from replicata.study.index import FILE, Index
from replicata.study.parse import parse
from replicata.study.table import Table

Recorded = Callable[..., Table]
NODE: dict[str, Any] = {
    "seeds": 3,
    "arms": {"new": [], "old": ["method=old"], "other": ["optimizer.lr=${rates.sgd}"]},
    "claims": [
        {
            "id": "better",
            "statement": "New is better than old.",
            "paper": {"new": 84.4, "old": 81.5, "unit": "%", "where": "Table 2"},
            "test": {"kind": "greater", "metric": "test/acc", "arm": "new", "than": "old"},
        },
        {
            "id": "cheap",
            "statement": "New | old are <small>.",
            "role": "report",
            "all": [
                {"kind": "threshold", "metric": "cost/macs", "arm": "new", "at_most": 5, "exact": True},
                {"kind": "threshold", "metric": "cost/macs", "arm": "old", "at_most": 5, "exact": True},
            ],
        },
    ],
    "figures": [{"id": "acc", "kind": "bars", "title": "Accuracy [of all]", "metric": "test/acc"}],
}
HARDWARE = {"machine": "x86_64", "processor": "Some CPU", "cores": 2, "gpus": []}
PAPER = {"title": "A *Study* of Toys", "venue": "TOY 2020", "url": "https://a.example/1", "code": None}


def content(spec: Any) -> Any:
    if spec.arm == "other":
        failed = {"status": "failed", "error": {"message": "no memory", "kind": "memory"}}
        return failed if spec.seed == 0 else None
    acc = {"new": 0.84, "old": 0.80}[spec.arm] + (spec.seed - 1) * (0.01 if spec.arm == "new" else 0.008)
    return {
        "metrics": {"test/acc": acc, "cost/macs": 4.0},
        "seconds": 30.0,
        "parameters": 1234,
        "peak_memory_mb": {"cpu": 100.0},
        "stages": {},
        "hardware": HARDWARE,
        "ended": f"2026-01-02T10:00:0{spec.seed}+00:00",
        "code": "old code" if (spec.arm, spec.seed) == ("old", 2) else "code",
    }


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A config folder of one experiment."""
    folder = tmp_path / "conf" / "experiment" / "toy"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({"paper": PAPER, "study": NODE}))
    return tmp_path / "conf"


@pytest.fixture
def summary(configs: Path, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudySummary:
    """The study of :data:`NODE` with its records under ``outputs``, seen from the folder above."""
    monkeypatch.chdir(tmp_path)
    recorded(parse(NODE, "toy/study"), content)
    figures = tmp_path / "outputs" / "toy" / "study" / "figures"
    figures.mkdir()
    (figures / "acc.png").write_bytes(b"png")
    found = summarise("toy/study", [configs], Path("outputs"), Path("results/toy/study.json"))
    assert found is not None
    return found


GOLDEN = r"""# A \*Study\* of Toys

TOY 2020 · [paper](https://a.example/1)

`toy/study`: 6 of 9 runs finished (1 of these by other code: stale, 1 failed, 2 missing); 3 min of computing on x86\_64, Some CPU, 2 cores, no GPU

Read from `outputs/toy/study`.

## Claims

**1 holds of 1 claim**

| claim | verdict | effect, 95 % interval | wanted | n | the paper |
| --- | --- | --- | --- | --- | --- |
| `better`<br>New is better than old. | **holds** | 0.0400 [0.0350, 0.0450] | > 0 | 3 | new 84.4, old 81.5 % (Table 2) |
| `cheap` (report)<br>New \| old are &lt;small>. | **holds** | 4 exactly | &lt;= 5 | 3 |  |

- `cheap` is made of
  - cost/macs: new &lt;= 5, exact: **holds**, 4 exactly, n = 3
  - cost/macs: old &lt;= 5, exact: **holds**, 4 exactly, n = 3

## Arms

| arm | seeds | test/acc | cost/macs | seconds | parameters | peak memory, MB |
| --- | --- | --- | --- | --- | --- | --- |
| `new` | 3 | 0.840 [0.815, 0.865] | 4 | 30 | 1,234 | 100 |
| `old` | 3 | 0.800 [0.780, 0.820] | 4 | 30 | 1,234 | 100 |
| `other` | 0 of 3 |  |  |  |  |  |

Means over seeds with Student's 95 % interval; costs are means over seeds.

## Figures

![Accuracy \[of all\]](../../toy/study/figures/acc.png)

Runs without a result:

- other seed 0: no memory

## Repeat it

```sh
replicata study toy/study
replicata run experiment=toy/study seed=0
replicata run experiment=toy/study method=old seed=0
replicata run experiment=toy/study 'optimizer.lr=${rates.sgd}' seed=0
```
"""  # noqa: E501


def test_the_report_says_all_there_is(summary: StudySummary) -> None:
    assert markdown(summary, Path("outputs/report/toy")) == GOLDEN


def test_arms_and_claims_are_rows_of_csv(summary: StudySummary) -> None:
    arms = list(csv.DictReader(io.StringIO(arms_csv(summary))))
    assert arms[0]["arm"] == "new"
    assert arms[0]["metric"] == "test/acc"
    assert float(arms[0]["mean"]) == pytest.approx(0.84)
    assert float(arms[0]["low"]) < 0.84 < float(arms[0]["high"])
    assert {row["metric"] for row in arms} == {"test/acc", "cost/macs", "seconds", "parameters", "peak_memory_mb"}
    assert not [row for row in arms if row["arm"] == "other"]
    better, cheap = csv.DictReader(io.StringIO(claims_csv([summary])))
    assert (better["experiment"], better["claim"], better["verdict"]) == ("toy/study", "better", "holds")
    assert better["paper"] == "new 84.4, old 81.5 % (Table 2)"
    assert cheap["statement"] == "New | old are <small>."
    assert (float(better["low"]), better["n"], better["wanted"]) == (pytest.approx(0.035, abs=1e-3), "3", "> 0")


def test_the_overview_counts_claims_but_not_reports(summary: StudySummary) -> None:
    assert index_markdown([summary]).splitlines()[2:] == [
        "| study | venue | holds | fails | inconclusive | not decided | runs | computing | last run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| [toy/study](toy/study.md) | TOY 2020 | 1 | 0 | 0 | 0 | 6 of 9, 1 stale | 3 min | 2026-01-02 |",
    ]
    assert "None has been run" in index_markdown([])


def test_committed_results_give_the_same_report(
    summary: StudySummary, configs: Path, recorded: Recorded, tmp_path: Path
) -> None:
    study = parse(NODE, "toy/other")
    table = recorded(study, content)
    path = tmp_path / "results.json"
    verdicts.write(path, verdicts.build(study, table, evaluate(study, table), reconstructed=True))
    read = summarise("toy/study", [configs], tmp_path / "nowhere", path)
    assert read is not None
    assert [(v.id, v.verdict) for v in read.verdicts] == [(v.id, v.verdict) for v in summary.verdicts]
    assert read.arms[0].metrics["test/acc"].effect == pytest.approx(0.84)
    assert read.arms[2].done == 0
    assert read.arms[2].planned == 3
    assert read.runs == {"finished": 6, "failed": 3}
    assert read.reconstructed
    assert "The method is a reconstruction." in markdown(read, tmp_path)
    assert [claim.split(",")[:5] for claim in claims_csv([read]).splitlines()] == [
        claim.split(",")[:5] for claim in claims_csv([summary]).splitlines()
    ]


def test_a_verdict_that_was_committed_otherwise_is_named(summary: StudySummary, configs: Path, tmp_path: Path) -> None:
    study = summary.study
    table = Table(study, [])
    committed = verdicts.build(study, table, list(summary.verdicts), reconstructed=False)
    committed["claims"][0]["verdict"] = "fails"
    verdicts.write(tmp_path / "r.json", committed)
    found = summarise("toy/study", [configs], Path("outputs"), tmp_path / "r.json")
    assert found is not None
    assert found.committed == {"better": "fails"}
    assert "The committed results say otherwise:\n\n- `better` fails" in markdown(found, tmp_path)


def test_claims_whose_arms_were_not_planned_are_not_decided(
    summary: StudySummary, configs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "outputs" / "toy" / "study" / FILE
    index = Index.read(path)
    assert index is not None
    only = [entry for entry in index.entries if entry.arm == "new" and entry.seed < 2]
    gone = [index.entries[0].__class__("renamed", (), 0, index.entries[0].directory, "h", "c")]
    Index(index.name, ("trainer.max_epochs=1",), (*only, *gone)).write(path)
    found = summarise("toy/study", [configs], Path("outputs"), Path("none"))
    assert found is not None
    assert (found.verdicts, found.unclaimed) == ([], ["better", "cheap"])
    assert [arm.arm for arm in found.arms] == ["new"]
    assert found.commands == ["replicata study toy/study --arms new --seeds 2 trainer.max_epochs=1"]
    assert found.arms[0].command == "replicata run experiment=toy/study trainer.max_epochs=1 seed=0"
    assert "Not decided, because arms that they compare were not run:" in markdown(found, tmp_path)


# The command --------------------------------------------------------------------------------


def test_the_command_prints_and_writes(summary: StudySummary, replicata: Any, tmp_path: Path) -> None:
    called = replicata("report", "--config-dir", tmp_path / "conf", "toy/study")
    assert called.status == 0, called.err
    lines = called.out.splitlines()
    assert lines[0] == "A *Study* of Toys"
    assert lines[3].split() == ["arm", "seeds", "test/acc", "cost/macs", "seconds", "parameters"]
    assert "holds         better          0.0400 [0.0350, 0.0450], wanted > 0, n = 3" in lines
    assert "without a result: other seed 0: no memory" in lines
    assert "repeat it: replicata study toy/study" in lines
    folder = tmp_path / "outputs" / "report"
    assert (folder / "toy" / "study.md").read_text() == GOLDEN
    assert {path.name for path in folder.rglob("*.*")} == {"study.md", "study.csv", "study_claims.csv"}
    assert (
        replicata("report", f"--config-dir={tmp_path / 'conf'}").out.splitlines()[1].startswith("toy/study  TOY 2020")
    )
    assert {path.name for path in folder.glob("*.*")} == {"index.md", "index.csv"}


def test_mistakes_are_one_line(summary: StudySummary, replicata: Any, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    called = replicata("report", "--config-dir", conf, "toy/studi")
    assert (called.status, called.err.splitlines()) == (
        2,
        ["replicata: there is no study 'toy/studi'; did you mean 'toy/study'?"],
    )
    assert "--fast is not understood" in replicata("report", "--fast").err
    elsewhere = replicata("report", "--config-dir", conf, "toy/study", "paths.outputs=elsewhere")
    assert (elsewhere.status, elsewhere.err.count("\n")) == (2, 1)
    assert "toy/study has no runs here" in elsewhere.err
    assert not Path("elsewhere").exists()


def test_a_damaged_index_or_record_leaves_the_rest(summary: StudySummary, replicata: Any, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "toy" / "study"
    (folder / "new" / "seed0" / "run.json").write_text("{")
    called = replicata("report", "--config-dir", tmp_path / "conf", "toy/study")
    assert called.status == 0
    assert "without a result: new seed 0: " in called.out
    assert "inconclusive  better" in called.out
    (folder / FILE).write_text("{")
    called = replicata("report", "--config-dir", tmp_path / "conf")
    assert called.status == 2
    assert "study.json cannot be read" in called.err
    assert "report: outputs/report/index.md" in called.out


def test_nothing_to_report_is_said(replicata: Any, tmp_path: Path) -> None:
    called = replicata("report", "paths.outputs=empty")
    assert called.status == 0
    assert "no study has been run here" in called.out


def test_a_thousand_runs_take_less_than_two_seconds(tmp_path: Path, recorded: Recorded) -> None:
    arms = {f"arm{at}": [f"a={at}"] for at in range(10)}
    test = {"kind": "greater", "metric": "val/mean", "than": "arm0"}
    claims = [
        {"id": f"c{at}", "statement": "It is better.", "test": {**test, "arm": f"arm{at}"}} for at in range(1, 10)
    ]
    derived = {"val/mean": {"curve": "val/acc", "reduce": "mean"}}
    node = {"seeds": 100, "arms": arms, "claims": claims, "derived": derived}

    def run(spec: Any) -> Any:
        value = ((spec.seed * 7 + int(spec.arm[3:]) * 13) % 101) / 101
        return {"metrics": {"test/acc": value}, "curves": {"val/acc": [value] * 20}, "seconds": 1.0}

    recorded(parse(node, "toy/big"), run)
    (tmp_path / "conf" / "experiment" / "toy").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "toy" / "big.yaml").write_text(yaml.safe_dump({"study": node}))
    before = time.process_time()
    command = "from replicata.cli import main; import sys, time; main(sys.argv[1:]); print(time.process_time())"
    words = ["report", "--config-dir", "conf", "toy/big"]
    done = subprocess.run(
        [sys.executable, "-c", command, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "1000 of 1000 runs finished" in done.stdout
    assert float(done.stdout.splitlines()[-1]) < 2.0  # of its own computing: other tests run beside it
    assert time.process_time() - before < 2.0


# Verdicts as tables -------------------------------------------------------------------------


def verdict(**fields: Any) -> Verdict:
    said: dict[str, Any] = {"id": "x", "statement": "It is so.", "verdict": "holds", "effect": 0.01243, "reason": ""}
    said |= {"interval": (0.0061, 0.0187), "n": 5, "region": "> 0", "method": "t", "paper": None, "role": "claim"}
    return Verdict(**{**said, "strength": None, "parts": (), **fields})


def test_numbers_have_the_digits_that_the_interval_gives_them() -> None:
    assert tables.estimate_text(0.012431, (0.0061, 0.0187)) == "0.0124 [0.0061, 0.0187]"
    assert tables.estimate_text(84.321, (80.11, 88.9)) == "84.3 [80.1, 88.9]"
    assert tables.estimate_text(1234.5, (1000.2, 1500.7)) == "1234 [1000, 1501]"
    assert tables.estimate_text(0.5, (0.5, 0.5)) == "0.5 exactly"
    assert tables.estimate_text(3.0, (1.5, float("inf"))) == "3.000 [1.500, ∞]"
    assert tables.estimate_text(2.0, None) == "2, no interval"
    assert tables.estimate_text(None, None) == "no effect"
    assert tables.estimate_text(3e-9, (1e-9, 5e-9)) == "3e-09 [1e-09, 5e-09]"


def test_the_tally_counts_claims() -> None:
    found = [verdict(), verdict(), verdict(verdict="fails"), verdict(verdict="fails", role="report")]
    assert tables.tally(found) == "2 hold, 1 fails of 3 claims"
    assert tables.tally([verdict(verdict="inconclusive")] * 2) == "2 inconclusive of 2 claims"
    assert tables.tally([verdict(role="control")]) == "no claims"


def test_the_lines_say_verdict_claim_and_reason() -> None:
    failed = verdict(id="y", verdict="fails", role="control", strength="weak", reason="a seed 3 diverged", paper="84.4")
    assert tables.verdict_lines([verdict(), failed]).splitlines() == [
        "holds         x                  0.0124 [0.0061, 0.0187], wanted > 0, n = 5",
        "              It is so.",
        "fails         y (control, weak)  0.0124 [0.0061, 0.0187], wanted > 0, n = 5",
        "              It is so.",
        "              the paper: 84.4",
        "              why: a seed 3 diverged",
    ]


def test_a_verdict_that_is_not_favourable_says_why() -> None:
    assert tables.reason_text(verdict()) == ""
    assert tables.reason_text(verdict(verdict="fails")) == "its interval lies outside"
    assert tables.reason_text(verdict(verdict="inconclusive")) == "its interval reaches over the boundary"
    assert tables.reason_text(verdict(verdict="inconclusive", interval=None, reason="one seed")) == "one seed"


def test_the_table_fits_a_narrow_terminal_and_shows_brackets_as_they_are() -> None:
    strange = verdict(statement="Better than [bold]old[/bold] [1].", reason="[red]no", verdict="inconclusive")
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(tables.verdict_table([strange], title="toy"))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]old[/bold]" in text
    assert "[red]no" in text
    assert "inconclusive" in text


def test_a_terminal_gets_tables(summary: StudySummary, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "140")
    report.show(summary)
    show_index([summary])
    tables.show_verdicts(summary.study, summary.verdicts)
    tables.show_verdicts(summary.study, [])
    said = capsys.readouterr().out
    assert "─" in said
    assert said.count("New is better than old.") == 2
    assert "toy/study has no claim to decide" in said


def test_durations() -> None:
    assert [duration_text(s) for s in (5, 89, 200, 5400, 36000)] == ["5 s", "89 s", "3 min", "1.5 h", "10.0 h"]


def test_parts_of_parts_are_listed(summary: StudySummary) -> None:
    inner = Finding("a > 0, data=x", "fails", -1.0, (-2.0, -0.5), 3, "> 0", "t", ("odd",))
    outer = Finding("a > 0, each data", "fails", -1.0, (-2.0, -0.5), 3, "> 0", "t", (), (inner,))
    lines = report._part_lines(verdict(parts=(outer,)))
    assert lines == [
        "- `x` is made of",
        "  - a > 0, each data: **fails**, -1.00 [-2.00, -0.50], n = 3",
        "    - a > 0, data=x: **fails**, -1.00 [-2.00, -0.50], n = 3 (odd)",
    ]


def test_the_report_imports_neither_torch_nor_a_method(summary: StudySummary, tmp_path: Path) -> None:
    code = (
        "import sys; from replicata.cli import main; main(sys.argv[1:]);"
        "heavy = ('torch', 'hydra', 'matplotlib', 'pyarrow');"
        "print([name for name in sys.modules if name in heavy or 'replicata.methods' in name])"
    )
    words = ["report", "--config-dir", str(tmp_path / "conf"), "toy/study"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"

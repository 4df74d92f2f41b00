"""Loggers: what is in Weights & Biases, TensorBoard and MLflow afterwards, read back with their own readers."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from omegaconf import OmegaConf

from replicata.run import wandb_logger

Toy = Callable[..., Any]
Records = Callable[..., dict[Path, dict[str, Any]]]
OUTSIDE = Path(__file__).parents[1] / "outside"


@pytest.fixture
def wandb_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No login, no settings of the user's, no staging folder in the home directory; nothing left running."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb-home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()


@dataclass
class Logged:
    """What W&B's own reader finds in one ``.wandb`` file."""

    run: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def read_back(path: Path) -> Logged:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = Logged()
    for record in map(json.loads, lines):
        content = record.get(record["type"], {})
        if record["type"] == "run":
            found.run = {**content, **found.run}
        elif record["type"] == "history":
            found.rows.append(content["item"])
        elif record["type"] == "metric":
            found.metrics[content["name"]] = content
        elif record["type"] == "summary":
            found.summary |= content["update"]
        elif record["type"] == "artifact":
            found.artifacts.append(content)
        elif record["type"] == "exit":
            found.exit_code = content["exit_code"]
    return found


def logs(directory: Path) -> list[Path]:
    """The ``.wandb`` files of a run, in the order of their beginning."""
    return sorted((directory / "wandb").glob("*run-*/*.wandb"), key=lambda path: path.parent.name)


def series(rows: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Values by metric and batch."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        for name, value in row.items():
            if name.startswith(("train/", "val/", "test/")) or name == "epoch":
                found[name][row["batch"]] = value
    return found


def csv_series(directory: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in csv.DictReader((directory / "metrics.csv").open()):
        for name, value in row.items():
            if value and name != "step":
                found[name][int(row["step"])] = float(value)
    return found


# Weights & Biases ----------------------------------------------------------------------------


@pytest.mark.usefixtures("wandb_here")
def test_everything_of_a_run_is_in_its_wandb_file(toy: Toy, records: Records) -> None:
    words = ("arm=mip", "seed=3", "logger.wandb.tags=[mine]", "logger.wandb.checkpoint=true")
    called = toy("toy", "logger=wandb", *words, "+callbacks.draw._target_=toypkg.Draw")
    assert called.status == 0, called.err
    ((directory, record),) = records().items()
    assert called.err == (
        f"replicata: W&B: no login (wandb login); the run is kept offline: wandb sync {directory / 'wandb'}\n"
    )
    (path,) = logs(directory)
    found = read_back(path)

    # Who it is.
    run = found.run
    assert (run["project"], run["run_group"], run["job_type"]) == ("replicata", "toy", "mip")
    assert run["display_name"] == "mip seed 3"
    assert sorted(run["tags"]) == ["laptop", "mine", "toy"]
    config = yaml.safe_load((directory / "config.yaml").read_text())
    logged = run["config"]["update"]
    assert {key: logged[key] for key in config} == config
    assert logged["hash"] == record["hash"]

    # Every metric, at its batch and epoch.
    assert series(found.rows) == csv_series(directory)
    for name in ("train/loss", "val/acc", "test/acc"):
        assert found.metrics[name]["step_metric"] == "epoch"
    assert all(found.metrics[axis]["options"]["hidden"] for axis in ("epoch", "batch"))

    # The summary: last and best.
    assert {name: found.summary[name] for name in record["metrics"]} == pytest.approx(record["metrics"])
    values = csv_series(directory)
    assert found.summary["best/val/acc"] == max(values["val/acc"].values())
    assert found.summary["best/val/loss"] == min(values["val/loss"].values())
    assert found.summary["parameters"] == record["parameters"]
    assert found.summary["status"] == "finished"
    assert found.exit_code == 0

    # Figures, tables, checkpoint.
    last = found.rows[-1]
    files = path.parent / "files"
    assert last["figures/square._type"] == "image-file"
    assert (files / last["figures/square.path"]).read_bytes() == (directory / "figures" / "square.png").read_bytes()
    table = json.loads((files / last["tables/noise.path"]).read_text())
    rows = pq.read_table(directory / "tables" / "noise.parquet").to_pylist()
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == rows
    arms = json.loads((files / last["tables/arms.path"]).read_text())
    assert (arms["columns"], arms["data"]) == (["arm", "test/acc"], [["half", 0.5]])
    model = [artifact for artifact in found.artifacts if artifact["type"] == "model"]
    assert [artifact["name"] for artifact in model] == [f"toy-{record['hash']}-seed3"]
    assert model[0]["manifest"]["contents"][0]["path"] == "last.ckpt"


@pytest.mark.usefixtures("wandb_here")
def test_a_killed_run_goes_on_under_its_id(
    toy: Toy, child: Toy, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_logger, "FLUSH", 0.3)
    words = ["method.pause=0.01", "trainer.max_epochs=12", "callbacks.checkpoint.every_n_batches=17", "logger=wandb"]
    killed = child(
        *("run", "--config-dir", OUTSIDE / "conf", "experiment=toy", *words),
        patches={"replicata.run.wandb_logger:FLUSH": 0.3},
    )
    begun = size = 0
    end = time.monotonic() + 90
    while (
        not begun or size < begun + 2000
    ) and time.monotonic() < end:  # the first write has the config, later ones have rows
        size = sum(path.stat().st_size for path in Path("outputs").rglob("*.wandb"))
        begun = begun or (size if size > 100 else 0)
        time.sleep(0.01)
    time.sleep(0.2)  # rows that it does not get to write
    killed.kill()
    ((directory, record),) = records().items()
    assert record["status"] == "running"
    resumed = toy("toy", *words)
    assert resumed.status == 0, resumed.err
    first, second = logs(directory)
    before, after = read_back(first), read_back(second)
    assert before.run["run_id"] == after.run["run_id"]
    assert before.exit_code is None or before.exit_code != 0
    assert before.rows, "what was logged before the kill is in the file"
    assert "status" not in before.summary
    # Together they hold every row, and where they overlap they agree.
    expected = csv_series(directory)
    both = [series(part.rows) for part in (before, after)]
    assert {name: {**both[0].get(name, {}), **both[1].get(name, {})} for name in expected} == expected
    for name, values in both[0].items():
        assert all(both[1][name].get(batch, value) == value for batch, value in values.items())
    assert min(both[1]["val/loss"]) > min(both[0]["val/loss"]), "it went on, it did not begin again"
    best = min(expected["val/loss"].values())
    assert after.summary["best/val/loss"] == best
    assert toy("toy", *words, "force=true").status == 0
    assert read_back(logs(directory)[-1]).run["run_id"] != after.run["run_id"], "repeated, it is another run"


@pytest.mark.usefixtures("wandb_here")
def test_a_failed_run_is_marked_and_the_next_one_is_its_own(toy: Toy, records: Records) -> None:
    swept = toy("toy", "trainer.max_epochs=2", "method.poison=20,-1", "logger=wandb", "--multirun")
    assert swept.status == 1
    found = {record["status"]: read_back(logs(directory)[0]) for directory, record in records().items()}
    assert (found["failed"].exit_code, found["finished"].exit_code) == (1, 0)
    assert "not finite at batch 21" in found["failed"].summary["error"]
    assert found["failed"].summary["status"] == "failed"
    assert found["failed"].run["run_id"] != found["finished"].run["run_id"]
    assert found["finished"].run["job_type"] == "run"
    assert found["finished"].run["display_name"].startswith("toy ")


@pytest.mark.usefixtures("wandb_here")
def test_a_pruned_trial_says_so(toy: Toy, records: Records) -> None:
    words = ("search=default", "search.sampler=grid", "search.trials=null", "optimizer.lr=choice(0.03,1e-9)")
    pruner = ("search.pruner.kind=median", "search.pruner.min_trials=1", "search.seed=1")
    searched = toy("toy", *words, *pruner, "logger=wandb", "trainer.max_epochs=3")
    assert searched.status == 0, searched.err
    found = {record["status"]: read_back(logs(directory)[0]) for directory, record in records().items()}
    assert (found["pruned"].summary["status"], found["pruned"].exit_code) == ("pruned", 0)
    assert found["pruned"].run["job_type"] == "search"
    assert found["pruned"].run["display_name"] == "trial-1 seed 0"


@pytest.mark.usefixtures("wandb_here")
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 is not reachable"),
        ({"WANDB_MODE": "offline"}, None),
        ({"WANDB_MODE": "disabled"}, None),
    ],
)
def test_without_a_network_or_by_choice(
    toy: Toy, records: Records, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    called = toy("toy", "trainer.max_epochs=1", "logger=wandb")
    assert called.status == 0, called.err
    ((directory, _),) = records().items()
    line = f"replicata: W&B: {said}; the run is kept offline: wandb sync {directory / 'wandb'}\n"
    assert called.err == (line if said else "")
    assert len(logs(directory)) == (environment.get("WANDB_MODE") != "disabled")


class Server(BaseHTTPRequestHandler):
    """As much of W&B's server as a run without files needs."""

    refuses = False
    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        import gzip

        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        text = (gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body).decode(
            errors="replace"
        )
        self.seen.append((self.path, text))
        if self.path != "/graphql":
            self._answer({"limits": {}})
            return
        asked = json.loads(text)
        place = {"id": "p", "name": "replicata", "entity": {"id": "e", "name": "me"}}
        if "UpsertBucket" in asked["query"]:
            bucket = {
                "id": "b",
                "name": asked["variables"]["name"],
                "displayName": "x",
                "config": "{}",
                "project": place,
            }
            self._answer({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}})
        elif "CreateRunFiles" in asked["query"]:
            self._answer({"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}})
        elif "RunResumeStatus" in asked["query"]:
            self._answer({"data": {"model": {**place, "bucket": None}}})
        else:
            self._answer({"data": {}})

    do_PUT = do_POST

    def _answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(401 if self.refuses else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, wandb_here: None) -> Iterator[type[Server]]:
    handler = type("Handler", (Server,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{served.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        yield handler
        served.shutdown()


def test_with_a_login_it_is_uploaded(toy: Toy, records: Records, server: type[Server]) -> None:
    called = toy("toy", "trainer.max_epochs=2", "method=tasks/classification", "logger=wandb", "logger.wandb.entity=me")
    assert called.status == 0, called.err
    ((directory, record),) = records().items()
    (path,) = logs(directory)
    run = path.parent.name.rpartition("-")[2]
    assert called.err == f"replicata: W&B: {os.environ['WANDB_BASE_URL']}/me/replicata/runs/{run}\n"
    sent = "".join(text for where, text in server.seen if where == f"/files/me/replicata/{run}/file_stream")
    assert str(record["metrics"]["test/acc"]) in sent
    upserts = [json.loads(text)["variables"] for where, text in server.seen if "UpsertBucket" in text]
    assert "toy" in {upsert["groupName"] for upsert in upserts}


def test_a_server_that_refuses_leaves_the_run_offline(toy: Toy, records: Records, server: type[Server]) -> None:
    server.refuses = True
    called = toy("toy", "trainer.max_epochs=1", "logger=wandb")
    assert called.status == 0, called.err
    ((directory, _),) = records().items()
    assert called.err.endswith(f"the run is kept offline: wandb sync {directory / 'wandb'}\n")
    assert called.err.count("\n") == 1
    assert read_back(logs(directory)[-1]).exit_code == 0


@pytest.mark.usefixtures("wandb_here")
def test_a_dashboard_that_breaks_does_not_break_the_run(
    toy: Toy, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def broken(*arguments: Any, **named: Any) -> None:
        raise wandb.errors.Error("the service is gone")

    monkeypatch.setattr(wandb.Run, "log", broken)
    called = toy("toy", "trainer.max_epochs=2", "logger=wandb")
    assert called.status == 0
    assert called.err.splitlines()[1:] == ["replicata: W&B: the service is gone; the run goes on without it"]
    ((_, record),) = records().items()
    assert record["status"] == "finished"


def test_no_logger_is_imported_that_was_not_chosen(tmp_path: Path) -> None:
    code = (
        "import sys; from replicata.cli import main; main(sys.argv[1:]);"
        " sys.exit(bool({'wandb', 'tensorboard', 'mlflow', 'optuna'} & {*sys.modules}))"
    )
    words = ["run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy", "trainer.max_epochs=1"]
    environment = os.environ | {"PYTHONPATH": str(OUTSIDE)}
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("name", "epochs", "wanted"),
    [
        ("graph/dagnn", 10, "laptop"),
        ("graph/dagnn", 1, "smoke"),
        ("graph/dagnn_paper", 10, "paper"),
        (None, 10, "laptop"),
    ],
)
def test_the_scale_of_a_run(name: str | None, epochs: int, wanted: str) -> None:
    smoke = ["trainer.max_epochs=1", "data=tiny"]
    assert (
        wandb_logger.scale(OmegaConf.create({"name": name, "smoke": smoke, "trainer": {"max_epochs": epochs}}))
        == wanted
    )


# The others ----------------------------------------------------------------------------------


def events(directory: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory / "tensorboard"))
    found.Reload()
    return {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the extra tensorboard")
def test_tensorboard(toy: Toy, records: Records) -> None:
    assert toy("toy", "logger=tensorboard").status == 0
    ((directory, _),) = records().items()
    expected = csv_series(directory)
    found = events(directory)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the extra tensorboard")
@pytest.mark.usefixtures("wandb_here")
def test_many_at_once(toy: Toy, records: Records) -> None:
    called = toy("toy", "trainer.max_epochs=2", "logger=many")
    assert called.status == 0, called.err
    ((directory, _),) = records().items()
    expected = csv_series(directory)
    assert series(read_back(logs(directory)[0]).rows) == expected
    assert events(directory)["val/acc"] == pytest.approx(expected["val/acc"])


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs the extra mlflow")
def test_mlflow(toy: Toy, records: Records) -> None:
    from mlflow.tracking import MlflowClient

    assert toy("toy", "trainer.max_epochs=2", "logger=mlflow").status == 0
    ((directory, record),) = records().items()
    client = MlflowClient("sqlite:///outputs/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == f"{record['hash']}/seed0"
    expected = csv_series(directory)["val/acc"]
    history = client.get_metric_history(run.info.run_id, "val/acc")
    assert {point.step: point.value for point in history} == pytest.approx(expected)


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_a_missing_extra_is_named(toy: Toy, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    from replicata.run import loggers

    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    called = toy("toy", f"logger={package}")
    assert called.status == 2
    assert f"pip install 'replicata[{package}]'" in called.err


@pytest.mark.usefixtures("wandb_here")
def test_a_study_logs_its_verdicts_in_the_group_of_its_runs(
    replicata: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    words = ("--arms", "chain,louder", "--seeds", "1", "logger=wandb", "logger.wandb.project=here")
    called = replicata("study", "chain", "--config-dir", OUTSIDE / "conf", *words)
    assert called.status == 0, called.err
    assert "W&B: verdicts kept offline" in called.err
    (path,) = Path("outputs/chain/wandb").rglob("*.wandb")
    found = read_back(path)
    assert found.run["project"] == "here"
    assert found.run["display_name"] == "chain verdicts"
    assert any(key.startswith("verdicts") for key in found.rows[-1])
    assert found.summary["verdict/quieter"] == "inconclusive"
    arms = list(Path("outputs/chain").rglob("seed*/wandb/**/*.wandb"))
    assert len(arms) == 2
    first = read_back(arms[0])
    assert (first.run["run_group"], found.run["run_group"]) == ("chain", "chain")
    assert (first.run["job_type"] in {"chain", "louder"}, found.run["job_type"]) == (True, "study")

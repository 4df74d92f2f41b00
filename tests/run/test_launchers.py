"""Sweeps in other processes: the pool of this machine, SLURM, Ray."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from replicata.errors import RunError, UserError
from replicata.run import pool, sweep
from replicata.run.failures import Failure, names, noted
from replicata.run.sweep import Need, need_of

Toy = Callable[..., Any]
Records = Callable[..., dict[Path, dict[str, Any]]]
OUTSIDE = Path(__file__).parents[1] / "outside"

# The workers stay between the tests of this file: what they import, they import once.
pytestmark = pytest.mark.xdist_group("launchers")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    noted.clear()
    names.clear()
    yield
    noted.clear()
    names.clear()


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A launcher with ``toytasks.act`` for its jobs, set up as Hydra does it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(OUTSIDE))

    def make(choice: str, *overrides: str) -> Any:
        import toytasks
        from hydra import initialize_config_dir
        from hydra._internal.callbacks import Callbacks

        from replicata.run.compose import PRIMARY, config_dir

        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            words = [f"launcher={choice}", "hydra.mode=MULTIRUN", *overrides]
            config = hydra.compose_config(PRIMARY, words, run_mode=RunMode.MULTIRUN)
            context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
            return Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=toytasks.act, config=config
            )

    return make


def jobs(*words: str) -> list[list[str]]:
    return [word.split() for word in words]


def values(results: Sequence[Any]) -> list[Any]:
    return [result.return_value for result in results]


def gone(processes: Sequence[psutil.Process], seconds: float = 10) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


# The pool -----------------------------------------------------------------------------------


def test_workers_are_used_again_and_hold_back(launcher: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    local = launcher("local")
    seen: list[tuple[int, int]] = []
    local.on_result = lambda number, result: seen.append((number, result.return_value["seed"]))
    first = values(local.launch(jobs(*(f"seed={seed} +act=sleep" for seed in range(4))), initial_job_idx=3))
    second = values(local.launch(jobs("seed=7", "seed=8"), initial_job_idx=7))
    told = first + second
    assert [one["number"] for one in told] == [3, 4, 5, 6, 7, 8]
    assert [one["seed"] for one in told] == [0, 1, 2, 3, 7, 8], "in the order of the jobs"
    assert sorted(seen) == [(3, 0), (4, 1), (5, 2), (6, 3), (7, 7), (8, 8)]
    processes = {one["process"] for one in told}
    assert len({one["process"] for one in first}) == min(sweep.cores(), 4) == local.workers
    assert processes == {one["process"] for one in first}, "the second batch finds the same workers"
    assert os.getpid() not in processes
    for one in told:
        assert one["group"] == one["process"], "a process group of its own"
        assert not one["daemon"], "a run may start processes"
        assert one["torch"], "imported before the first job"
        assert one["threads"] == "1"
    assert sorted(capfd.readouterr().out.split("\n"))[1:] == [f"job {number}" for number in range(3, 9)]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked under Linux only")
def test_workers_are_forked_from_one_thread(launcher: Toy) -> None:
    told = values(launcher("local").launch(jobs("seed=0", "seed=1"), initial_job_idx=0))
    assert {one["parent_threads"] for one in told} == {1}
    assert len({one["parent"] for one in told}) == 1


def test_what_a_worker_dies_of_costs_one_run(launcher: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    local = launcher("local")
    words = ["seed=0", "+act=die", "seed=2", "+act=leave", "+act=orphan paths.cache=pid", "+act=refuse", "seed=6"]
    told = values(local.launch(jobs(*words), initial_job_idx=0))
    assert [one["seed"] for one in told if isinstance(one, dict)] == [0, 2, 6]
    killed, left, crashed, refused = (one for one in told if isinstance(one, Failure))
    assert (killed.kind, killed.status) == ("killed", 1)
    assert killed.message == "its process was killed by signal 9, SIGKILL (out of memory?)"
    assert "status 3" in left.message
    assert crashed.message.endswith("killed by signal 11, SIGSEGV")
    assert refused.status == 2
    assert {(one.label, one.failure) for one in noted} == {
        ("+act=die", killed),
        ("+act=leave", left),
        ("+act=orphan paths.cache=pid", crashed),
        ("+act=refuse", refused),
    }
    err = capfd.readouterr().err
    assert err.count("replicata: +act=die failed: its process was killed by signal 9") == 1
    orphan = int(Path("pid").read_text())
    assert not psutil.pid_exists(orphan) or gone([psutil.Process(orphan)]), "what the run had started ended with it"


def test_an_exception_comes_back_as_hydra_hands_it_over(launcher: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    results = launcher("local").launch(jobs("+act=raise", "seed=1"), initial_job_idx=0)
    assert [result.status for result in results] == [JobStatus.FAILED, JobStatus.COMPLETED]
    with pytest.raises(RunError, match="Strange: ab"):
        _ = results[0].return_value
    assert "in act" in capfd.readouterr().err, "with its traceback"


def test_a_job_that_cannot_be_composed_is_one_failure(launcher: Toy) -> None:
    told = values(launcher("local").launch(jobs("optimizer=none_such", "seed=1"), initial_job_idx=0))
    assert told[0] == Failure(told[0].message, 2, "mistake")
    assert "optimizer=none_such does not exist" in told[0].message
    assert told[1]["seed"] == 1


def test_what_a_callback_raises_ends_the_sweep(launcher: Toy) -> None:
    local = launcher("local")

    def stop(number: int, result: Any) -> None:
        raise KeyboardInterrupt

    local.on_result = stop
    with pytest.raises(KeyboardInterrupt):
        local.launch(jobs(*(f"seed={seed} +act=sleep" for seed in range(4))), initial_job_idx=0)
    assert not pool.shared().workers
    local.on_result = None
    assert values(local.launch(jobs("seed=5"), initial_job_idx=4))[0]["seed"] == 5


def test_threads_of_all_runs_fit_the_cores(launcher: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pool, sweep):
        monkeypatch.setattr(module, "cores", lambda: 2)
    local = launcher("local")
    words = ["threads=1 +act=sleep", "threads=1 +act=sleep", "threads=2 +act=sleep", "threads=1 +act=sleep"]
    told = values(local.launch(jobs(*words), initial_job_idx=0))
    assert [one["threads"] for one in told] == ["1", "1", "2", "1"]
    alone = told[2]
    for other in (told[0], told[1], told[3]):
        assert other["ended"] <= alone["started"] or other["started"] >= alone["ended"]


def test_gpus_are_dealt_out(launcher: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed: the task does not touch the one that it sees."""
    for module in (pool, sweep):
        monkeypatch.setattr(module, "cores", lambda: 8)
        monkeypatch.setattr(module, "gpus", lambda: ("3", "5"))
    monkeypatch.setattr(pool, "need_of", lambda config: sweep.need_of(config, lambda: ("3", "5")))
    monkeypatch.setattr(pool.Local, "available", staticmethod(lambda: ("3", "5")))
    local = launcher("local", "accelerator=gpu")
    assert local.workers == 2
    try:
        told = values(local.launch(jobs(*(f"accelerator=gpu seed={s} +act=sleep" for s in range(3))), 0))
    finally:
        pool.shared().close()
    assert {one["gpus"] for one in told} == {"3", "5"}
    assert len({(one["process"], one["gpus"]) for one in told}) == 2, "each worker has one, for good"


@pytest.mark.parametrize(
    ("config", "need"),
    [
        ({"threads": 1, "trainer": {"accelerator": "cpu", "devices": 1}}, Need(1, 1, 0)),
        ({"threads": 2, "trainer": {"accelerator": "cpu", "devices": 2}}, Need(2, 4, 0)),
        ({"threads": 1, "trainer": {"accelerator": "cpu", "devices": "auto"}}, Need(1, 1, 0)),
        ({"threads": 2, "trainer": {"accelerator": "gpu", "devices": 1}}, Need(2, 2, 1)),
        ({"threads": 1, "trainer": {"accelerator": "gpu", "devices": -1}}, Need(1, 4, 4)),
        ({"threads": 1, "trainer": {"accelerator": "cuda", "devices": [0, 1]}}, Need(1, 2, 2)),
        ({"threads": "many", "trainer": {}}, Need(1, 1, 0)),
    ],
)
def test_what_a_run_takes(config: dict[str, Any], need: Need) -> None:
    assert need_of(OmegaConf.create(config), lambda: "0123") == need


def test_no_more_workers_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "cores", lambda: 8)
    monkeypatch.setattr(pool, "gpus", lambda: ("0", "1", "2"))
    assert pool.at_once(Need(2, 2), None) == 4
    assert pool.at_once(Need(1, 1), 3) == 3
    assert pool.at_once(Need(1, 1, 1), None) == 3
    with pytest.raises(UserError, match=r"workers=5 is more than fit: .*2 cores \(threads=2\).* has 8; at most 4"):
        pool.at_once(Need(2, 2), 5)
    with pytest.raises(UserError, match="3 GPUs; at most 3"):
        pool.at_once(Need(1, 1, 1), 4)
    with pytest.raises(UserError, match=r"a run takes 16 cores .*lower threads"):
        pool.at_once(Need(16, 16), None)
    with pytest.raises(UserError, match="at least 1, got 0"):
        pool.at_once(Need(), 0)


# From the command line ----------------------------------------------------------------------


def test_a_local_sweep_is_the_serial_sweep(toy: Toy, records: Records) -> None:
    swept = toy("toy", "trainer.max_epochs=1", "launcher=local", "method.poison=-1,3", "seed=0,1", "--multirun")
    assert swept.status == 1
    now, end, last = swept.err.splitlines()[:2], swept.err.splitlines()[2:-1], swept.err.splitlines()[-1]
    for line in now:
        assert line.startswith("replicata: experiment=toy trainer.max_epochs=1 launcher=local method.poison=3 seed=")
        assert " failed: train/loss is not finite at batch 4" in line
    assert end[0] == "failed runs:"
    assert [line.split()[3:5] for line in sorted(end[1:])] == [["method.poison=3", f"seed={seed}"] for seed in (0, 1)]
    assert all("  loss not finite  train/loss is not finite at batch 4" in line for line in end[1:])
    assert last == "replicata: 2 runs failed, listed above; the others are kept"
    assert swept.out.count("test/acc") == 2
    found = records()
    assert sorted(record["status"] for record in found.values()) == ["failed", "failed", "finished", "finished"]
    again = toy("toy", "trainer.max_epochs=1", "seed=0")
    assert "finished before" in again.out, "the launcher is no part of the identity"
    assert toy("toy", "trainer.max_epochs=1", "seed=0", "paths.outputs=serial").status == 0
    (serial,) = records("serial").values()
    metrics = [record["metrics"] for path, record in found.items() if record["status"] == "finished"]
    assert serial["metrics"] in metrics, "bit for bit"


def test_mistakes_are_refused_before_anything_starts(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = sweep.cores()
    called = toy("toy", "seed=0,1", "launcher=local", f"hydra.launcher.workers={cores + 1}", "--multirun")
    assert called.status == 2
    assert f"at most {cores} at once" in called.err
    monkeypatch.setenv("PATH", "/nowhere")
    called = toy("toy", "seed=0,1", "launcher=slurm", "--multirun")
    assert (called.status, "srun" in called.err) == (2, True)
    for choice, module in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.setitem(sys.modules, module, None)
        called = toy("toy", "seed=0,1", f"launcher={choice}", "--multirun")
        assert called.status == 2
        assert f"pip install 'replicata[{choice}]'" in called.err
    assert not Path("outputs/toy").exists()


def start(*words: str) -> subprocess.Popen[str]:
    """A sweep of slow runs in a process of its own."""
    command = [sys.executable, "-m", "replicata", "run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy"]
    return subprocess.Popen(
        [*command, "launcher=local", "method.pause=0.2", "seed=0,1", *words, "--multirun"],
        env=os.environ | {"PYTHONPATH": str(OUTSIDE)},
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_once_running(parent: subprocess.Popen[str], records: Records) -> list[psutil.Process]:
    """All processes of the sweep, once its first runs are under way."""
    for _ in range(600):
        if [record for record in records().values() if record["status"] == "running"]:
            return psutil.Process(parent.pid).children(recursive=True)
        assert parent.poll() is None, parent.stderr.read() if parent.stderr else ""
        time.sleep(0.1)
    raise AssertionError("the sweep does not start")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(
    how: signal.Signals, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parent = start()
    others = processes_once_running(parent, records)
    assert len(others) >= 2
    parent.send_signal(how)
    assert parent.wait(30) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert gone(others)
    states = {record["status"] for record in records().values()}
    assert states <= ({"interrupted"} if how == signal.SIGINT else {"running"})


@pytest.mark.processes
@pytest.mark.slow
def test_processes_of_torchrun_are_one_run(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``scripts/multi_node.sh`` starts, here with two machines that are both this one, and with stages."""
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {
        "HEAD": "localhost",
        "NODES": "2",
        "PROCESSES": "1",
        "PORT": str(port),
        "PYTHONPATH": str(OUTSIDE),
        "PATH": path,
    }
    script = Path(__file__).parents[2] / "scripts" / "multi_node.sh"
    words = ["--config-dir", str(OUTSIDE / "conf"), "experiment=chain", "trainer.max_epochs=1"]
    words += ["trainer.accelerator=cpu", "trainer.devices=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    nodes = [subprocess.Popen([str(script), *words], env=os.environ | own, **pipes) for _ in range(2)]
    printed = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(text for both in printed for text in both)
    assert sum(out.count("test/acc") for out, _ in printed) == 1, "the first process speaks"
    found = records()
    assert [record["status"] for record in found.values()] == ["finished"] * 3
    assert all(record["epochs"] for record in found.values())


# SLURM --------------------------------------------------------------------------------------

SBATCH = """#!{python}
# Stands for SLURM: starts the tasks of an array in the background, as many as the script says.
import os, re, subprocess, sys
text = open(sys.argv[1]).read()
open("script.sh", "w").write(text)
count = int(re.search(r"--array=0-(\\d+)", text).group(1)) + 1
for task in range(count):
    own = {{"SLURM_JOB_ID": str(7 + task), "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}}
    own |= {{"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}}
    command = f"bash {{sys.argv[1]}} && echo COMPLETED > state{{task}} || echo OUT_OF_MEMORY > state{{task}}"
    quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen(["bash", "-c", command], env=os.environ | own, **quiet)
print("Submitted batch job 7")
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == --output || $1 == --error ]] && shift; shift; done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for task in 0 1; do echo "7_$task|$(cat state$task 2> /dev/null || echo RUNNING)|n1"; done
"""


def test_slurm_gets_a_job_array(launcher: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from submitit.core.core import Job

    tools = {"sbatch": SBATCH.format(python=sys.executable), "srun": SRUN, "sacct": SACCT}
    for name, text in tools.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(Job, "_results_timeout_s", 0)
    options = {"partition": "gpu", "timeout_min": 30, "mem_gb": 4, "array_parallelism": 8, "gres": "lustre:1"}
    words = [f"hydra.launcher.{key}={value}" for key, value in options.items()]
    words += ["hydra.launcher.setup=[module load cuda]", "+hydra.launcher.additional_parameters.mail-type=FAIL"]
    slurm = launcher("slurm", *words)
    assert slurm.workers == 8
    told = values(slurm.launch(jobs("seed=1 threads=2", "+act=die"), initial_job_idx=0))
    script = (tmp_path / "script.sh").read_text()
    directives = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    wanted = {"array=0-1%2", "cpus-per-task=2", "partition=gpu", "time=30", "mem=4GB", "nodes=1", "gres=lustre:1"}
    assert directives >= wanted | {"job-name=replicata", "signal=USR2@120", "mail-type=FAIL"}
    assert "module load cuda" in script
    assert "srun" in script
    assert f"{sys.executable} -u -m submitit.core._submit" in script
    assert told[0]["seed"] == 1
    assert isinstance(told[1], Failure)
    assert told[1].kind == "killed"
    assert "SLURM job 7_1: OUT_OF_MEMORY" in told[1].message


def test_a_task_that_has_to_make_way_is_queued_again(launcher: Toy, tmp_path: Path) -> None:
    local = launcher("slurm", "hydra.launcher.executor=local")
    marker = tmp_path / "process"

    def interrupt() -> None:
        for _ in range(600):
            if marker.exists() and marker.read_text():
                psutil.Process(int(marker.read_text())).send_signal(signal.SIGUSR2)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=interrupt)
    thread.start()
    told = values(local.launch(jobs(f"+act=again paths.cache={marker}"), initial_job_idx=0))
    thread.join()
    assert told[0]["process"] != int(marker.read_text()), "another process took it up"


@pytest.mark.slow
def test_a_sweep_through_submitit(toy: Toy, records: Records) -> None:
    words = ["trainer.max_epochs=1", "launcher=slurm", "hydra.launcher.executor=local"]
    swept = toy("toy", *words, "method.poison=-1,3", "--multirun")
    assert swept.status == 1
    assert "method.poison=3 failed: train/loss is not finite at batch 4" in swept.err
    assert swept.out.count("test/acc") == 1
    assert sorted(record["status"] for record in records().values()) == ["failed", "finished"]


# Ray ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ray_carries_jobs(launcher: Toy) -> None:
    ray = pytest.importorskip("ray")
    try:
        words = ["seed=0 +act=sleep", "+act=die", "seed=2", "+act=refuse", "seed=4"]
        told = values(launcher("ray", "hydra.launcher.num_cpus=2").launch(jobs(*words), initial_job_idx=0))
    finally:
        ray.shutdown()
    assert [one["seed"] for one in told if isinstance(one, dict)] == [0, 2, 4]
    killed, refused = (one for one in told if isinstance(one, Failure))
    assert killed.kind == "killed"
    assert "Ray: WorkerCrashedError" in killed.message
    assert refused.status == 2
    assert {one.failure for one in noted} == {killed, refused}


@pytest.mark.slow
def test_a_study_through_ray(replicata: Toy, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.syspath_prepend(str(OUTSIDE))
    words = ["launcher=ray", "hydra.launcher.num_cpus=2", "--arms", "plain,killed,diverges", "--seeds", "1"]
    try:
        called = replicata("study", "troubled", "--config-dir", OUTSIDE / "conf", *words)
    finally:
        ray.shutdown()
    assert called.status == 1
    said, listed = called.err.split("failed runs:\n")
    assert said.count("replicata: killed seed 0 failed: Ray: WorkerCrashedError") == 1
    killed, diverges, _ = listed.splitlines()
    assert killed.startswith("  killed seed 0    killed           Ray: WorkerCrashedError")
    assert diverges.startswith("  diverges seed 0  loss not finite  train/loss is not finite at batch 4")
    assert sorted(record["status"] for record in records().values()) == ["failed", "finished", "running"]

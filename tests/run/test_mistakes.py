"""Two hundred wrong command lines, made by rule: each is answered in one line that names the key and a way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from replicata.run import compose as composing

EXPERIMENTS = ("adaptive/mip", "graph/dagnn", "theory/wide_deep_optimal")
DRAW = np.random.default_rng(20260101)


def misspell(word: str) -> str:
    """One letter dropped, doubled, swapped or replaced."""
    at = int(DRAW.integers(1, len(word)))
    return str(
        DRAW.choice(
            [
                word[:at] + word[at + 1 :] if len(word) > 3 else word + "x",
                word[:at] + word[at - 1] + word[at:],
                word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
                word[:at] + "z" + word[at + 1 :],
            ]
        )
    )


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def misspelt_keys(count: int) -> Iterator[tuple[list[str], str, str]]:
    """A wrong key beside the right one."""
    for number in range(count):
        experiment = EXPERIMENTS[number % 3]
        config = OmegaConf.to_container(composing.compose([f"experiment={experiment}"]), resolve=False)
        assert isinstance(config, dict)
        groups = ("method", "data", "trainer", "optimizer", "model", "callbacks")
        keys = [key for key, _ in leaves({name: config[name] for name in groups if config.get(name)})]
        keys = [key for key in keys if len(key.rpartition(".")[2]) > 3 and "_target_" not in key and "betas" not in key]
        key = str(DRAW.choice(keys))
        parent, _, leaf = key.rpartition(".")
        wrong = misspell(leaf)
        while f"{parent}.{wrong}" in keys or wrong == leaf:
            wrong = misspell(leaf)
        yield [f"experiment={experiment}", f"{parent}.{wrong}=1"], f"{parent}.{wrong}", leaf


def misspelt_choices(count: int) -> Iterator[tuple[list[str], str, str]]:
    """A choice that a group does not have."""
    dirs = composing.search_dirs()
    for number in range(count):
        group = ("data", "model", "method", "optimizer", "accelerator", "logger", "experiment", "scheduler")[number % 8]
        known = composing.choices(group, dirs)
        choice = str(DRAW.choice([name for name in known if len(name.rpartition("/")[2]) > 2]))
        folder, slash, leaf = choice.rpartition("/")
        wrong = folder + slash + misspell(leaf)
        while wrong in known:
            wrong = folder + slash + misspell(leaf)
        yield [f"{group}={wrong}"], f"{group}={wrong}", choice


def misspelt_groups(count: int) -> Iterator[tuple[list[str], str, str]]:
    for number in range(count):
        group = ("experiment", "method", "model", "data", "trainer", "accelerator", "optimizer", "scheduler", "logger")[
            number % 9
        ]
        wrong = misspell(group)
        while wrong in composing.groups(composing.search_dirs()) or wrong == group:
            wrong = misspell(group)
        yield [f"{wrong}=x"], wrong, group


WRONG_TYPES = {
    "int": ("abc", "1.5", "[1,2]", "true"),
    "float": ("abc", "[1,2]", "true"),
    "bool": ("maybe", "3"),
}


def wrong_types(count: int) -> Iterator[tuple[list[str], str, str]]:
    made = 0
    while made < count:
        experiment = EXPERIMENTS[made % 3]
        config = OmegaConf.to_container(composing.compose([f"experiment={experiment}"]), resolve=False)
        assert isinstance(config, dict)
        groups = ("method", "data", "trainer", "model")
        for key, value in DRAW.permutation(
            np.array(list(leaves({name: config[name] for name in groups if config.get(name)})), dtype=object)
        ):
            kind = type(value).__name__
            if kind not in WRONG_TYPES or (
                key.startswith("trainer.") and not key.endswith(("epochs", "devices", "nodes"))
            ):
                continue
            bad = str(DRAW.choice(WRONG_TYPES[kind]))
            if (kind == "float" and bad == "true") or (kind, bad) == ("int", "1.5"):
                bad = "abc"
            yield [f"experiment={experiment}", f"{key}={bad}"], key, ""
            made += 1
            break


def fixed(tmp: Path) -> list[tuple[list[str], str, str]]:
    """Values out of range, impossible combinations, absent devices, missing data, foreign code."""
    mip, dagnn, wide = (f"experiment={name}" for name in EXPERIMENTS)
    nowhere = [f"paths.data={tmp}/nowhere", "data.download=false", f"paths.cache={tmp}/cache"]
    return [
        (["seed=-1"], "seed", ""),
        (["seed=abc"], "seed", ""),
        (["seed=1.5"], "seed", ""),
        (["threads=0"], "threads", ""),
        (["test=worst"], "test", "best"),
        (["force=perhaps"], "force", ""),
        (["test=best"], "callbacks.checkpoint.monitor", ""),
        ([mip, "data.batch_size=0"], "data.batch_size", ""),
        ([mip, "data.n_val=100000"], "data.n_val", ""),
        ([mip, "optimizer.lr=-1"], "optimizer", ""),
        ([mip, "optimizer.lr=abc"], "optimizer.lr", ""),
        ([mip, "optimizer.betas=[2,3]"], "optimizer", ""),
        ([mip, "scheduler=step", "scheduler.scheduler.gama=1"], "scheduler.scheduler.gama", "gamma"),
        ([mip, "trainer.max_epochs=-7"], "trainer", ""),
        ([mip, "trainer.devices=0"], "trainer.devices", ""),
        ([mip, "trainer.strategy=ddpp"], "trainer.strategy", "ddp"),
        ([mip, "trainer.accelerator=gpus"], "trainer.accelerator", "gpu"),
        ([mip, "trainer.precision=17"], "trainer.precision", ""),
        ([mip, "+trainer.max_epoch=3"], "trainer.max_epoch", "max_epochs"),
        ([mip, "+method.nonsense=3"], "method.nonsense", ""),
        ([mip, "+model.activaton=relu"], "model.activaton", "activation"),
        ([mip, "+data.batchsize=3"], "data.batchsize", "batch_size"),
        ([mip, "+optimizer.weight_decy=3"], "optimizer.weight_decy", "weight_decay"),
        ([mip, "data.num_classes=7"], "num_classes", "10"),
        ([mip, "model=null"], "model", ""),
        ([mip, "method=null"], "method", ""),
        ([mip, "data=null"], "data", ""),
        ([mip, "callbacks.checkpoint=null"], "callbacks.checkpoint", ""),
        ([mip, "callbacks.checkpoint.mode=largest"], "callbacks.checkpoint.mode", ""),
        ([mip, "callbacks.checkpoint.every_n_batches=0"], "callbacks.checkpoint.every_n_batches", ""),
        ([mip, "accelerator=gpu"], "accelerator", "cpu"),
        ([mip, "accelerator=multi_gpu"], "accelerator", "cpu"),
        ([mip, "accelerator=fsdp"], "accelerator", "cpu"),
        ([mip, "accelerator=mps"], "accelerator", "cpu"),
        ([mip, "accelerator=multi_node"], "accelerator", "cpu"),
        ([dagnn, "accelerator=ddp_cpu"], "accelerator", "accelerator=cpu"),
        ([wide, "accelerator=ddp_cpu"], "accelerator", "accelerator=cpu"),
        ([mip, "trainer.strategy=fsdp", "trainer.devices=2"], "trainer", ""),
        ([mip, "data=vision/mnist", *nowhere], "MNIST", ""),
        ([mip, "data=vision/fashion_mnist", *nowhere], "FashionMNIST", ""),
        ([mip, "data=vision/cifar10", *nowhere], "CIFAR-10", ""),
        ([dagnn, "data=graph/cora", *nowhere], "Cora", ""),
        ([dagnn, "data=graph/citeseer", *nowhere], "CiteSeer", ""),
        ([mip, f"paths.outputs={tmp}/file/x"], "paths.outputs", ""),
        ([mip, f"paths.data={tmp}/file"], "paths.data", ""),
        ([mip, "method._target_=os.system"], "os.system", "allow=[os]"),
        ([mip, "method._target_=torch.os.system"], "posix.system", ""),
        ([mip, "method._target_=torch.load"], "torch.load", "refused"),
        ([mip, "model._target_=torch.hub.load"], "torch.hub.load", "refused"),
        ([mip, "model._target_=functools.partial"], "functools", ""),
        ([mip, "model._target_=torch.nn.Linaer"], "torch.nn", "Linear"),
        ([mip, "model._target_=subprocess.Popen"], "subprocess", ""),
        ([mip, "optimizer._target_=torch.optim.Adm"], "torch.optim", "Adam"),
        ([mip, "model._target_=builtins.eval"], "builtins", ""),
        ([mip, "model._target_=torch.nn"], "torch.nn", ""),
        ([mip, "allow=torch"], "allow", ""),
        ([mip, "data.batch_size=[1"], "data.batch_size", ""),
        ([mip, "=3"], "=3", ""),
        ([mip, "method"], "method", ""),
        ([mip, "--multrun"], "--multrun", "--multirun"),
        ([mip, "--smok"], "--smok", "--smoke"),
        ([mip, "--config-dir", f"{tmp}/nowhere"], "--config-dir", ""),
        (["--smoke"], "--smoke", "experiment="),
        (["experiment=adaptive/mop", "--smoke"], "experiment=adaptive/mop", "adaptive/mip"),
        ([mip, "data.batch_size=${data.batchsize}"], "data.batch", ""),
        ([mip, "data=graph/cora", *nowhere], "", ""),
        ([dagnn, "data=vision/digits"], "", ""),
        ([mip, "optimizer=null", "method=tasks/classification"], "optimizer", ""),
    ]


def test_two_hundred_mistakes(replicata: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases = [*misspelt_keys(48), *misspelt_choices(40), *misspelt_groups(18), *wrong_types(28), *fixed(tmp_path)]
    assert len(cases) >= 200
    wrong = []
    for arguments, names, offers in cases:
        called = replicata("run", *arguments)
        reasons = []
        if called.status != 2:
            reasons.append(f"exit status {called.status}")
        lines = called.err.strip().splitlines()
        if len(lines) != 1 or not lines[0].startswith("replicata: "):
            reasons.append(f"{len(lines)} lines")
        if names not in called.err:
            reasons.append(f"does not name {names}")
        if offers and offers not in called.err:
            reasons.append(f"does not offer {offers}")
        if "Traceback" in called.err:
            reasons.append("traceback")
        if reasons:
            wrong.append(f"{' '.join(arguments)}\n    {'; '.join(reasons)}\n    {called.err.strip()[-400:]}")
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong)
    assert not list(Path("outputs").rglob("run.json"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        # Hydra reads headers up to the first line that is none.
        (
            "# mine\n# @package _global_\nseed: 1\n",
            "experiment=mine: the first line of its file must be `# @package _global_`",
        ),
        ("# @package _global_\ntrainr: {max_epochs: 1}\n", "trainr is read by nothing; did you mean 'trainer'?"),
    ],
)
def test_what_a_config_file_says_to_nobody_is_a_mistake(
    replicata: Callable[..., Any], tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "conf/experiment/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    called = replicata("run", "--config-dir", tmp_path / "conf", "experiment=mine")
    assert called.status == 2
    assert called.err.startswith(f"replicata: {said}")
    assert len(called.err.strip().splitlines()) == 1


def test_a_key_of_ones_own_may_be_referred_to(replicata: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "conf/experiment/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        '# @package _global_\nrates: {adam: 0.1}\noptimizer: {lr: "${rates.adam}"}\ntrainer: {max_epochs: 1}\n'
    )
    assert replicata("run", "--config-dir", tmp_path / "conf", "experiment=mine").status == 0


def test_the_nearest_choice_comes_first() -> None:
    from replicata.errors import nearest

    assert re.match(
        r"did you mean 'graph/cora'", nearest("graph/coar", ["graph/cora", "graph/citeseer", "vision/digits"])
    )


def test_config_nodes_are_checked_against_signatures() -> None:
    from replicata.errors import UserError
    from replicata.run.check import check_node

    node = OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": "many"})
    assert isinstance(node, DictConfig)
    with pytest.raises(UserError, match=r"model\.out_features must be int"):
        check_node(node, "model", [], set())
    del node["out_features"]
    with pytest.raises(UserError, match=r"model\.out_features is needed"):
        check_node(node, "model", [], set())

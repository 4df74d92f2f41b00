"""MovieLens: histories, users, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from replicata.data.module import take
from replicata.data.tabular.movielens import MovieLens
from replicata.errors import UserError
from replicata.streams import Streams

USERS, ITEMS, EACH = 9, 15, 12
FACTS = {"num_users": USERS, "num_items": ITEMS, "num_categories": 19, "val_users": 2, "test_users": 3}


@pytest.fixture(scope="module")
def ratings() -> np.ndarray:
    """(user, movie, rating, time), all from 1; many ratings fall in one second."""
    rng = np.random.default_rng(0)
    rows = [
        (user, movie, rng.integers(1, 6), rng.integers(100, 106))
        for user in range(1, USERS + 1)
        for movie in rng.permutation(ITEMS)[:EACH] + 1
    ]
    return np.array(rows)[rng.permutation(len(rows))]


@pytest.fixture(scope="module")
def genres() -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [sorted(rng.permutation(19)[: rng.integers(1, 4)].tolist()) for _ in range(ITEMS)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ratings: np.ndarray, genres: list[list[int]]) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "ml-100k").mkdir()
    np.savetxt(root / "ml-100k" / "u.data", ratings, fmt="%d", delimiter="\t")
    lines = [
        f"{movie}|Film #{movie}: é|01-Jan-1995||http://|" + "|".join(str(int(g in has)) for g in range(19))
        for movie, has in enumerate(genres, 1)
    ]
    (root / "ml-100k" / "u.item").write_text("\n".join(lines), encoding="latin-1")
    (root / "ml-20m").mkdir()
    header = ["userId,movieId,rating,timestamp"]
    body = [f"{user},{10 * movie},{rating - 0.5},{time}" for user, movie, rating, time in ratings]
    (root / "ml-20m" / "ratings.csv").write_text("\n".join(header + body))
    films = [
        f'{10 * movie},"Film, {movie}",{"|".join(f"g{g:02d}" for g in has)}' for movie, has in enumerate(genres, 1)
    ]
    (root / "ml-20m" / "movies.csv").write_text("\n".join(["movieId,title,genres", *films]))
    return root


def make(root: Path, seed: int = 0, **given: Any) -> MovieLens:
    data = MovieLens(
        root=str(root), cache=str(root / "cache"), download=False, **(FACTS | {"history": 4, "skip": 2} | given)
    )
    data.streams = Streams(seed)
    data.setup()
    return data


def batches(data: MovieLens) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: data.transform(take(data.splits[name], torch.arange(len(data.splits[name]["y"]))))
        for name in ("train", "val", "test")
    }


def test_histories_are_what_was_rated_before(root: Path, ratings: np.ndarray, genres: list[list[int]]) -> None:
    found: dict[tuple[int, int], Any] = {}
    for batch in batches(make(root)).values():
        for row in range(len(batch["y"])):
            known = batch["history"][row][batch["history_mask"][row]]
            assert not batch["history"][row][~batch["history_mask"][row]].any()
            candidate = batch["candidate"][row].tolist()
            found[int(batch["group"][row]), candidate[0]] = (known.tolist(), candidate, int(batch["y"][row]))
    expected: dict[tuple[int, int], Any] = {}
    for user in range(USERS):
        mine = sorted((time, movie - 1, rating) for u, movie, rating, time in ratings.tolist() if u == user + 1)
        pairs = [[movie, genres[movie][0]] for _, movie, _ in mine]
        for k in range(2, EACH):
            expected[user, mine[k][1]] = (pairs[max(0, k - 4) : k][::-1], pairs[k], int(mine[k][2] >= 4))
    assert found == expected


def test_the_target_is_not_in_its_history(root: Path) -> None:
    for batch in batches(make(root)).values():
        seen = (batch["history"][..., 0] == batch["candidate"][:, None, 0]) & batch["history_mask"]
        assert not seen.any()


def test_users_are_in_one_split_and_change_with_the_seed(root: Path) -> None:
    one, two = (
        {name: set(make(root, s).splits[name]["group"].tolist()) for name in ("train", "val", "test")} for s in (0, 1)
    )
    assert [len(one[name]) for name in ("train", "val", "test")] == [4, 2, 3]
    assert set.union(*one.values()) == set(range(USERS))
    assert one["test"] != two["test"]


def test_the_larger_set_has_other_files_and_the_same_protocol(root: Path, genres: list[list[int]]) -> None:
    kinds = len({g for has in genres for g in has})
    small, large = batches(make(root)), batches(make(root, name="ml-20m", num_categories=kinds))
    rank = {g: at for at, g in enumerate(sorted({g for has in genres for g in has}))}
    for name in ("train", "test"):
        assert torch.equal(small[name]["candidate"][:, 0], large[name]["candidate"][:, 0])
        renamed = [rank[g] for g in small[name]["candidate"][:, 1].tolist()]
        assert renamed == large[name]["candidate"][:, 1].tolist()


def test_facts_are_verified(root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.num_items is declared as 99, but the data has 15"):
        make(root, num_items=99)
    with pytest.raises(ValueError, match="must leave some"):
        make(root, test_users=7)


def test_missing_and_damaged_files_are_one_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"u\.data and u\.item not found"):
        make(tmp_path)
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k" / "u.item").write_bytes((root / "ml-100k" / "u.item").read_bytes())
    (tmp_path / "ml-100k" / "u.data").write_text("1\t2\t3\t4\n1\t2\n")
    with pytest.raises(UserError, match="are damaged"):
        make(tmp_path)
    (tmp_path / "ml-100k" / "u.data").write_text("1\t2000\t3\t4\n2\t1\t3\t4\n")
    with pytest.raises(UserError, match="movies that are not listed"):
        make(tmp_path)


@pytest.mark.data
def test_the_real_set(data_root: Path, tmp_path: Path) -> None:
    data = MovieLens(
        root=str(data_root), cache=str(tmp_path), download=False, num_users=943, num_items=1682, num_categories=19,
        history=30, val_users=70, test_users=200,
    )  # fmt: skip
    data.streams = Streams(0)
    data.setup()
    ratings = len(data.splits["log"]["user"])
    assert 99_900 < ratings <= 100_000
    assert sum(len(data.splits[name]["y"]) for name in ("train", "val", "test")) == ratings - 5 * 943
    every = torch.cat([data.splits[name]["y"] for name in ("train", "val", "test")])
    assert 0.5 < float(every.double().mean()) < 0.6

"""Amazon reviews: purchases, negatives, splits, files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from replicata.data.module import take
from replicata.data.tabular.amazon import AmazonReviews
from replicata.errors import UserError
from replicata.streams import Streams

USERS, ITEMS = 8, 20
FACTS = {"num_users": USERS, "num_items": ITEMS, "num_categories": 4, "val_users": 3}


def write(root: Path, described: int = ITEMS) -> dict[str, list[str]]:
    """Files in the release's format; returns each user's products in time order."""
    rng = np.random.default_rng(0)
    bought = {f"u{user}": [f"p{item:02d}" for item in rng.permutation(ITEMS)[: 5 + user % 3]] for user in range(USERS)}
    bought["u0"] = [f"p{item:02d}" for item in range(ITEMS) if item % 2]
    bought["u1"] = [f"p{item:02d}" for item in range(ITEMS) if not item % 2]
    rows = [
        {"reviewerID": user, "asin": product, "unixReviewTime": 86400 * (at // 2), "overall": 5.0}
        for user, products in bought.items()
        for at, product in enumerate(products)
    ]
    (root / "amazon").mkdir(parents=True)
    with gzip.open(root / "amazon" / "reviews_Toys_5.json.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with gzip.open(root / "amazon" / "meta_Toys.json.gz", "wt") as file:
        for item in range(described):
            product = {"asin": f"p{item:02d}", "categories": [["All"], ["All", f"c{item % 4}"]], "title": "it's"}
            file.write(f"{product}\n")
        file.write(str({"asin": "never bought"}) + "\n")
    return bought


def make(root: Path, seed: int = 0, **given: Any) -> AmazonReviews:
    settings = {"name": "Toys", "history": 4, "download": False} | FACTS | given
    data = AmazonReviews(root=str(root), cache=str(root / "cache"), **settings)
    data.streams = Streams(seed)
    data.setup()
    return data


def test_purchases_follow_their_history_and_negatives_were_never_bought(tmp_path: Path) -> None:
    bought = write(tmp_path)
    data = make(tmp_path)
    places: dict[str, list[tuple[int, int]]] = {}
    for name in ("train", "val", "test"):
        split = data.splits[name]
        batch = data.transform(take(split, torch.arange(len(split["y"]))))
        assert batch["y"].double().mean() == 0.5
        for row in range(len(batch["y"])):
            user = int(batch["group"][row])
            mine = [int(product[1:]) for product in bought[f"u{user}"]]
            item, category = batch["candidate"][row].tolist()
            known = batch["history"][row][batch["history_mask"][row]].tolist()
            at = int(split["row"][row] - split["start"][row])
            assert known == [[old, old % 4] for old in mine[max(0, at - 4) : at][::-1]]
            assert category == item % 4
            if batch["y"][row]:
                assert item == mine[at]
                places.setdefault(name, []).append((user, at))
            else:
                assert item not in mine
    last = {(user, len(bought[f"u{user}"]) - 1) for user in range(USERS)}
    assert set(places["test"]) == last
    assert {(user, at + 1) for user, at in places["val"]} < last
    assert len(places["val"]) == 3
    every = {(user, at) for user in range(USERS) for at in range(1, len(bought[f"u{user}"]))}
    assert sorted(pair for part in places.values() for pair in part) == sorted(every)


def test_parsed_files_are_kept_and_negatives_depend_on_the_seed(tmp_path: Path) -> None:
    write(tmp_path)
    one, again, other = make(tmp_path), make(tmp_path), make(tmp_path, seed=1)
    assert len(list((tmp_path / "cache" / "amazon").iterdir())) == 1
    assert one.fingerprint == again.fingerprint != other.fingerprint


def test_missing_damaged_and_undeclared_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"meta_Toys\.json\.gz not found"):
        make(tmp_path)
    write(tmp_path, described=17)
    with pytest.raises(UserError, match=r"damaged \(3 of the reviewed products are not described\)"):
        make(tmp_path)
    write(tmp_path / "whole")
    with pytest.raises(UserError, match=r"data\.num_categories"):
        make(tmp_path / "whole", num_categories=5)
    (tmp_path / "whole" / "amazon" / "reviews_Toys_5.json.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(UserError, match="damaged"):
        make(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"data\.val_users"):
        make(tmp_path, val_users=9)

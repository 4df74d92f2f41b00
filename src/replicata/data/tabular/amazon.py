"""Amazon reviews (5-core): what is bought next, against a product drawn at random.

McAuley, Targett, Shi, van den Hengel, SIGIR 2015. http://jmcauley.ucsd.edu/data/amazon/ (release of 2014)
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from replicata.data.module import Split, take
from replicata.data.tabular.histories import Histories, starts
from replicata.errors import UserError

SOURCE = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"


class AmazonReviews(Histories):
    """A review is a purchase; each is paired with one product that the user never bought.

    A product is its number and its category, the last of its last path. With a user's purchases in time order,
    the last one is for the test and all others but the first, which has no history, for training; of ``val_users``
    users the last but one is for validation instead. Negatives are drawn once per seed.

    Files are read from ``<root>/amazon``, else from ``<cache>/amazon``, where they are downloaded to. Parsed, they are
    kept in the cache under their hash.

    Shapes:
        - as :class:`~replicata.data.tabular.histories.Histories`, :math:`F = 2`: product and category.

    Args:
        name: Department, as in the files' names: ``reviews_<name>_5.json.gz`` and ``meta_<name>.json.gz``.
        num_users, num_items, num_categories: Declared facts.
        val_users: Users who give an example to validation.
        **histories: see :class:`~replicata.data.tabular.histories.Histories`.
    """

    def __init__(
        self, *, name: str, num_users: int, num_items: int, num_categories: int, val_users: int, **histories: Any
    ) -> None:
        if not 1 <= val_users <= num_users:
            raise ValueError(f"data.val_users must be between 1 and num_users={num_users}, got {val_users}")
        super().__init__(**histories)
        self.department = name
        self.num_users, self.num_items, self.num_categories = num_users, num_items, num_categories
        self.val_users = val_users

    def prepare_data(self) -> None:
        self._parsed()

    def load(self) -> dict[str, Split]:
        parsed = self._parsed()
        users, items, category = parsed["user"], parsed["item"], parsed["category"]
        log = torch.stack([items, category[items]], 1)
        negatives = self._negatives(users, items, len(category))
        row, start = torch.arange(len(users)), starts(users)
        place, left = row - start, torch.bincount(users)[users] - 1 - (row - start)
        chosen = torch.zeros(int(users.max()) + 1, dtype=torch.bool)
        order = torch.randperm(len(chosen), generator=self.streams.split.at(0).torch)
        chosen[order[: self.val_users]] = True
        val = (left == 1) & chosen[users]
        parts = {"test": left == 0, "val": val, "train": (left > 0) & ~val}
        events = {"row": row, "start": start, "group": users}
        splits: dict[str, Split] = {}
        for name, part in parts.items():
            kept = take(events, row[part & (place > 0)])
            both = {key: column.repeat(2) for key, column in kept.items()}
            other = torch.stack([negatives, category[negatives]], 1)[kept["row"]]
            y = torch.ones(len(other), dtype=torch.long)
            both |= {"candidate": torch.cat([log[kept["row"]], other]), "y": torch.cat([y, 1 - y])}
            splits[name] = both
        return splits | {"log": {"item": log, "user": users, "category": category}}

    def _negatives(self, users: Tensor, items: Tensor, num_items: int) -> Tensor:
        """For every purchase a product that its user never bought."""
        generator = self.streams.split.at(1).torch
        bought = (users * num_items + items).unique()
        drawn = torch.empty_like(items)
        again = torch.arange(len(items))
        while len(again):
            drawn[again] = torch.randint(num_items, (len(again),), generator=generator)
            again = again[torch.isin(users[again] * num_items + drawn[again], bought)]
        return drawn

    def facts(self) -> dict[str, Any]:
        log = self.splits["log"]
        return {
            "num_users": len(log["user"].unique()),
            "num_items": len(log["category"]),
            "num_categories": len(log["category"].unique()),
        }

    # Files ---------------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        """Reviews and descriptions of products; downloaded first if they are nowhere."""
        names = [f"reviews_{self.department}_5.json.gz", f"meta_{self.department}.json.gz"]
        for base in (self.root, self.cache):
            files = [base / "amazon" / name for name in names]
            if all(file.is_file() for file in files):
                return files
        wanted = f"Amazon {self.department}: {' and '.join(names)} not found in {self.root / 'amazon'}"
        if not self.download:
            raise UserError(f"{wanted}; put them there or set data.download=true")
        from torchvision.datasets.utils import download_url

        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as temporary:
            for file in files:
                try:
                    download_url(f"{SOURCE}/{file.name}", temporary)
                except (OSError, RuntimeError) as error:
                    raise UserError(
                        f"{wanted} and the download from {SOURCE} failed ({error}); put them there"
                    ) from error
                file.parent.mkdir(exist_ok=True)
                os.replace(Path(temporary) / file.name, file)
        return files

    def _parsed(self) -> Split:
        """``user`` and ``item`` of all reviews, sorted by user and time, and ``category`` of the items."""
        reviews, meta = self._files()
        digest = hashlib.sha256(reviews.read_bytes() + meta.read_bytes()).hexdigest()[:16]
        path = self.cache / "amazon" / f"{self.department}-{digest}.pt"
        if path.is_file():
            return torch.load(path, weights_only=True)
        try:
            parsed = parse(reviews, meta)
        except (OSError, EOFError, ValueError, SyntaxError, KeyError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"Amazon {self.department}: the files in {reviews.parent} are damaged ({reason});"
                " fetch them again and replace them"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            torch.save(parsed, file)
        os.replace(temporary, path)
        return parsed


def parse(reviews: Path, meta: Path) -> Split:
    """Number users, products and categories in the order of their names."""
    with gzip.open(reviews, "rt", encoding="utf-8") as lines:
        rows = [(row["reviewerID"], int(row["unixReviewTime"]), row["asin"]) for row in map(json.loads, lines)]
    rows.sort(key=lambda row: row[:2])  # stable: purchases of one day stay in the order of the file
    products = {name: number for number, name in enumerate(sorted({product for _, _, product in rows}))}
    users = {name: number for number, name in enumerate(sorted({user for user, _, _ in rows}))}
    named: dict[str, str] = {}
    with gzip.open(meta, "rt", encoding="utf-8") as lines:
        for line in lines:
            product = ast.literal_eval(line)  # the release writes Python dicts, not JSON
            if product["asin"] in products:
                named[product["asin"]] = product["categories"][-1][-1]
    if len(named) < len(products):
        raise ValueError(f"{len(products) - len(named)} of the reviewed products are not described")
    categories = {name: number for number, name in enumerate(sorted(set(named.values())))}
    return {
        "user": torch.tensor([users[user] for user, _, _ in rows]),
        "item": torch.tensor([products[product] for _, _, product in rows]),
        "category": torch.tensor([categories[named[product]] for product in products]),
    }

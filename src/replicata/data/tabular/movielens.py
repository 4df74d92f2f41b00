"""MovieLens: ratings as clicks, with the movies that the user rated before.

Harper, Konstan, The MovieLens Datasets, TiiS 2015. https://grouplens.org/datasets/movielens/ (research use, no
redistribution)
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from replicata.data.module import Split, take
from replicata.data.tabular.histories import Histories, starts
from replicata.errors import UserError

FILES = {"ml-100k": ("u.data", "u.item"), "ml-20m": ("ratings.csv", "movies.csv")}
SOURCE = "https://files.grouplens.org/datasets/movielens"


class MovieLens(Histories):
    """Every rating is an example: 4 and more is a click. Users are split, so that test users are new.

    A movie is its number and its first genre. The history of a rating are the movies that the user rated before it,
    whatever the rating; ratings of one second are taken in the order of the movies.

    Files are read from ``<root>/<name>``, else from ``<cache>/<name>``, where they are downloaded to.

    Shapes:
        - as :class:`~replicata.data.tabular.histories.Histories`, :math:`F = 2`: movie and genre.

    Args:
        name: ``ml-100k`` or ``ml-20m``.
        num_users, num_items, num_categories: Declared facts.
        skip: First ratings of every user that are history only.
        val_users, test_users: Users of the other splits; all others train.
        **histories: see :class:`~replicata.data.tabular.histories.Histories`.
    """

    def __init__(
        self,
        *,
        name: Literal["ml-100k", "ml-20m"] = "ml-100k",
        num_users: int,
        num_items: int,
        num_categories: int,
        skip: int = 5,
        val_users: int,
        test_users: int,
        **histories: Any,
    ) -> None:
        if name not in FILES:
            raise ValueError(f"data.name must be one of {', '.join(FILES)}, got {name!r}")
        if skip < 0:
            raise ValueError(f"data.skip must be >= 0, got {skip}")
        if min(val_users, test_users) < 1 or val_users + test_users >= num_users:
            raise ValueError(
                f"data: val_users={val_users} and test_users={test_users} must leave some of {num_users} to train"
            )
        super().__init__(**histories)
        self.dataset = name
        self.num_users, self.num_items, self.num_categories = num_users, num_items, num_categories
        self.skip, self.val_users, self.test_users = skip, val_users, test_users

    def prepare_data(self) -> None:
        self._folder()

    def load(self) -> dict[str, Split]:
        ratings, genre = self._read()
        user, item, rating, time = ratings
        order = np.lexsort((item, time, user))
        users = torch.from_numpy(user[order])
        items = torch.from_numpy(item[order])
        log = torch.stack([items, genre[items]], 1)
        row, start = torch.arange(len(users)), starts(users)
        events = {
            "candidate": log,
            "row": row,
            "start": start,
            "y": torch.from_numpy(rating[order] >= 4).long(),
            "group": users,
        }
        part = self._parts(int(users.max()) + 1)[users]
        known = row - start >= self.skip
        splits = {name: take(events, row[known & (part == k)]) for k, name in enumerate(("test", "val", "train"))}
        return splits | {"log": {"item": log, "user": users, "genre": genre}}

    def _parts(self, users: int) -> Tensor:
        """Of every user: 0 for test, 1 for validation, 2 for training."""
        order = torch.randperm(users, generator=self.streams.split.torch)
        part = torch.full((users,), 2)
        part[order[: self.test_users]] = 0
        part[order[self.test_users : self.test_users + self.val_users]] = 1
        return part

    def facts(self) -> dict[str, Any]:
        log = self.splits["log"]
        return {
            "num_users": len(log["user"].unique()),
            "num_items": len(log["genre"]),
            "num_categories": self._num_genres,
        }

    # Files ---------------------------------------------------------------------------------

    def _folder(self) -> Path:
        """Where all files are; downloaded first if they are nowhere."""
        for base in (self.root, self.cache):
            if all((base / self.dataset / file).is_file() for file in FILES[self.dataset]):
                return base / self.dataset
        wanted = f"{self.dataset}: {' and '.join(FILES[self.dataset])} not found in {self.root / self.dataset}"
        if not self.download:
            raise UserError(f"{wanted}; put them there or set data.download=true")
        from torchvision.datasets.utils import download_and_extract_archive

        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as temporary:
            try:
                download_and_extract_archive(f"{SOURCE}/{self.dataset}.zip", temporary)
                (Path(temporary) / self.dataset).replace(self.cache / self.dataset)
            except (OSError, RuntimeError, EOFError) as error:
                raise UserError(f"{wanted} and the download from {SOURCE} failed ({error}); put them there") from error
        return self.cache / self.dataset

    def _read(self) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Tensor]:
        """User, movie (both from 0), rating and time of every rating; first genre of every movie."""
        folder = self._folder()
        try:
            ratings, genre, self._num_genres = _READERS[self.dataset](folder)
            if not len(genre) or int(ratings[1].max()) >= len(genre) or int(ratings[1].min()) < 0:
                raise ValueError("ratings of movies that are not listed")
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{self.dataset}: the files in {folder} are damaged ({reason}); fetch them again and replace them"
            ) from error
        return ratings, torch.from_numpy(genre)


def _read_100k(folder: Path) -> tuple[Any, np.ndarray, int]:
    user, item, rating, time = np.loadtxt(folder / "u.data", dtype=np.int64, delimiter="\t", unpack=True)
    flags = np.loadtxt(
        folder / "u.item", dtype=np.int64, delimiter="|", usecols=range(5, 24), encoding="latin-1", comments=None
    )
    return (user - 1, item - 1, rating, time), flags.argmax(1), flags.shape[1]


def _read_20m(folder: Path) -> tuple[Any, np.ndarray, int]:
    from pyarrow import csv

    ratings = csv.read_csv(folder / "ratings.csv")
    user, movie, rating, time = (ratings[name].to_numpy() for name in ("userId", "movieId", "rating", "timestamp"))
    movies = csv.read_csv(folder / "movies.csv")
    listed = [genres.split("|") for genres in movies["genres"].to_pylist()]
    genres = sorted({genre for of_movie in listed for genre in of_movie})
    number = {genre: at for at, genre in enumerate(genres)}
    ids = movies["movieId"].to_numpy()
    order = ids.argsort()
    at = np.searchsorted(ids, movie, sorter=order).clip(max=len(ids) - 1)
    item = np.where(ids[order[at]] == movie, order[at], -1)
    _, user = np.unique(user, return_inverse=True)
    return (user, item, rating, time), np.array([number[of_movie[0]] for of_movie in listed]), len(genres)


_READERS = {"ml-100k": _read_100k, "ml-20m": _read_20m}

"""Several data modules in one run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule

from replicata.streams import Streams


class Composite(LightningDataModule):
    """Named data modules side by side, for methods that take what they need from each.

    Facts of a child stand in the config as ``${data.children.<name>.<fact>}``. Children draw from the streams of the
    run: each has the splits it would have in a run of its own with the same seed.

    Args:
        children: The data modules, by name.

    Attributes:
        fingerprint: After ``setup``, a hash of the children's fingerprints.
        notes: The children's notes for the record, by ``<child>.<note>``.
    """

    def __init__(self, children: Mapping[str, LightningDataModule]) -> None:
        if not children:
            raise ValueError("data.children must name at least one data module")
        super().__init__()
        self.children = dict(children)
        self.fingerprint = ""
        self.notes: dict[str, str] = {}

    def __getitem__(self, name: str) -> Any:
        return self.children[name]

    @property
    def streams(self) -> Streams:
        return self._streams

    @streams.setter
    def streams(self, streams: Streams) -> None:
        self._streams = streams
        for child in self.children.values():
            child.streams = streams  # type: ignore[attr-defined]

    def prepare_data(self) -> None:
        for child in self.children.values():
            child.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        digest = hashlib.sha256()
        for name, child in self.children.items():
            child.setup(stage)  # type: ignore[arg-type]
            digest.update(f"{name}:{getattr(child, 'fingerprint', '')}".encode())
            self.notes |= {f"{name}.{key}": note for key, note in getattr(child, "notes", {}).items()}
        self.fingerprint = digest.hexdigest()

"""Several data modules in one run."""

from __future__ import annotations

import pytest
import torch

from replicata.data.composite import Composite
from replicata.data.sequence.transduction import Transduction
from replicata.data.synthetic.sphere import Sphere
from replicata.streams import Streams


def children() -> dict[str, Sphere | Transduction]:
    return {"points": Sphere(root="", cache="", n_train=20), "words": Transduction(root="", cache="", n_train=20)}


def test_children_have_the_splits_of_a_run_of_their_own() -> None:
    data = Composite(children())
    data.streams = Streams(3)
    data.prepare_data()
    data.setup("fit")
    for name, alone in children().items():
        alone.streams = Streams(3)
        alone.setup("fit")
        for split in ("train", "val", "test"):
            for column, values in alone.splits[split].items():
                assert torch.equal(data[name].splits[split][column], values)
    assert len(data.fingerprint) == 64


def test_without_children_it_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"data\.children"):
        Composite({})

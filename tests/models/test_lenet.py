"""LeNet's layer tables."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replicata.models.lenet import LeNet


@pytest.mark.parametrize(("form", "parameters"), [("lenet", 44_426), ("lenet5", 61_706), ("caffe", 431_080)])
def test_parameter_counts(form: str, parameters: int) -> None:
    net = LeNet([1, 28, 28], 10, form=form)  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert net(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_caffe_form_has_one_activation() -> None:
    assert sum(isinstance(layer, nn.ReLU) for layer in LeNet([1, 28, 28], 10, form="caffe").modules()) == 1
    assert sum(isinstance(layer, nn.ReLU) for layer in LeNet([1, 28, 28], 10).modules()) == 4


def test_lenet5_on_padded_images_is_the_unpadded_one_on_larger_images() -> None:
    padded, plain = LeNet([1, 28, 28], 10, form="lenet5"), LeNet([1, 32, 32], 10)
    plain.load_state_dict(padded.state_dict())
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(padded(x), plain(nn.functional.pad(x, [2, 2, 2, 2])))


def test_wrong_values_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"model\.form.*lenet5"):
        LeNet([1, 28, 28], 10, form="lenet6")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing is left"):
        LeNet([1, 8, 8], 10)

"""Networks of timm (https://github.com/huggingface/pytorch-image-models), an optional package."""

from __future__ import annotations

from torch import nn

from replicata.errors import UserError


def timm_model(name: str, num_classes: int, pretrained: bool = False) -> nn.Module:
    """A network of timm by its name there, which may name the weights too: ``resnet50.tv_in1k``.

    Args:
        name: One of ``timm.list_models()``.
        num_classes: Size of the output; with another than that of the weights the last layer starts anew.
        pretrained: Whether it has the published weights, which are downloaded once.

    Raises:
        UserError: if timm is not installed, has no such network, or its weights cannot be had.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise UserError(f"model.name={name} needs timm: pip install 'replicata[paper]'") from None
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes)
    except (RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model.name={name}: timm cannot make it ({reason})") from error

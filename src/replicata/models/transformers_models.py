"""Networks of Hugging Face transformers (https://github.com/huggingface/transformers), an optional package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from replicata.errors import UserError


class TextEncoder(nn.Module):
    """A pre-trained encoder of texts: the first place's last state, then a linear layer.

    Args:
        architecture: Its kind there, ``distilbert``.
        out_features: Size of the output :math:`D`.
        weights: Name of published weights, downloaded once; ``None``: random ones.
        settings: Of the architecture, where they are not its default; for random weights alone.

    Shapes:
        - tokens: :math:`(B, L)`, lengths: :math:`(B)`, output: :math:`(B, D)`.
    """

    def __init__(
        self,
        architecture: str,
        out_features: int,
        weights: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = transformers_model("AutoModel", architecture, weights, settings)
        self.head = nn.Linear(self.encoder.config.hidden_size, out_features)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]
        return self.head(self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state[:, 0])


class CausalLM(nn.Module):
    """A pre-trained language model.

    Args:
        architecture: Its kind there, ``llama``.
        weights: Name of published weights, downloaded once; ``None``: random ones.
        settings: Of the architecture, where they are not its default; for random weights alone.

    Shapes:
        - tokens: :math:`(B, T)`, output: logits :math:`(B, T, V)`.
    """

    def __init__(self, architecture: str, weights: str | None = None, settings: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.language_model = transformers_model("AutoModelForCausalLM", architecture, weights, settings)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.language_model(input_ids=tokens, use_cache=False).logits


def transformers_model(
    kind: str, architecture: str, weights: str | None, settings: dict[str, Any] | None = None
) -> Any:
    """A network by its architecture, or with published weights.

    Args:
        kind: Class that makes it, ``AutoModel`` or ``AutoModelForCausalLM``.
        architecture: One of ``transformers.models``.
        weights: Name of published weights; ``None``: random ones.
        settings: For random weights, what differs from the architecture's default.

    Raises:
        UserError: if transformers is not installed, has no such network, or its weights cannot be had.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise UserError(f"model architecture {architecture} needs transformers: pip install transformers") from None
    maker = getattr(transformers, kind)
    try:
        if weights is not None:
            return maker.from_pretrained(weights)
        return maker.from_config(transformers.AutoConfig.for_model(architecture, **(settings or {})))
    except (OSError, ValueError) as error:
        name = architecture if weights is None else weights
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model {name}: transformers cannot make it ({reason})") from error

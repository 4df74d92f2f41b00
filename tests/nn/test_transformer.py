"""Transformer blocks, against PyTorch's own on equal weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from replicata.nn.transformer import Block, SelfAttention, rotate


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def copy_attention(ours: SelfAttention, theirs: nn.MultiheadAttention) -> None:
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.data.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_pytorchs(causal: bool) -> None:
    ours, theirs = SelfAttention(12, 3, causal=causal), nn.MultiheadAttention(12, 3, batch_first=True)
    copy_attention(ours, theirs)
    x = inputs(2, 5, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(5) if causal else None
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0], rtol=1e-4, atol=1e-6)


def test_a_block_equals_pytorchs_pre_norm_layer() -> None:
    ours = Block(SelfAttention(12, 3, causal=True), 12, 20)
    theirs = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    assert isinstance(ours.mixer, SelfAttention)
    copy_attention(ours.mixer, theirs.self_attn)
    for mine, its in (
        (ours.norm_mixer, theirs.norm1),
        (ours.norm_mlp, theirs.norm2),
        (ours.expand, theirs.linear1),
        (ours.contract, theirs.linear2),
    ):
        its.load_state_dict(mine.state_dict())
    x = inputs(2, 5, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    torch.testing.assert_close(ours(x), theirs(x, src_mask=mask, is_causal=True), rtol=1e-4, atol=1e-6)


def test_rotation_is_that_of_complex_numbers() -> None:
    x = inputs(3, 7, 8).double()
    speeds = 10000.0 ** (-torch.arange(4).double() / 4)
    turn = torch.polar(torch.ones(7, 4).double(), torch.arange(7).double()[:, None] * speeds)
    turned = torch.complex(x[..., :4], x[..., 4:]) * turn
    torch.testing.assert_close(rotate(x), torch.cat([turned.real, turned.imag], -1), rtol=1e-5, atol=1e-5)


def test_products_of_rotated_vectors_depend_on_their_distance() -> None:
    query, key = inputs(8).double(), inputs(8, seed=1).double()
    products = rotate(query.expand(6, 8)) @ rotate(key.expand(6, 8)).t()
    for distance in range(-5, 6):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-5, atol=1e-5)
    assert products[0].unique().numel() == 6


def test_rotary_attention_sees_the_order() -> None:
    x = inputs(1, 6, 8)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for rotary in (False, True):
        attention = SelfAttention(8, 2, rotary=rotary)
        same = torch.allclose(attention(x[:, order]), attention(x)[:, order], atol=1e-5)
        assert same != rotary


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="width=10 must be a multiple of heads=4"):
        SelfAttention(10, 4)
    with pytest.raises(ValueError, match="even width"):
        SelfAttention(6, 2, rotary=True)

"""Shifted windows on maps of any size: against attention written down token by token, against timm on whole windows,
and local at every edge.
"""

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from htc.config import Timm
from htc.model.backbone import build_backbone
from htc.model.backbones.swin import WindowBlock, pad_before_shift

WINDOW, SHIFT, CHANNELS, HEADS = 7, 3, 8, 2
SIZES = [(7, 7), (14, 21), (10, 9), (3, 5), (50, 25), (8, 14)]


def block_of(kind: type, shift: int = SHIFT) -> SwinTransformerBlock | SwinTransformerV2Block:
    """timm's block with weights large enough for the attention to matter."""
    torch.manual_seed(0)
    block = (
        kind(CHANNELS, (14, 14), HEADS, window_size=WINDOW, shift_size=shift, always_partition=True, dynamic_mask=True)
        .double()
        .eval()
    )
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.7)
    return block


def window_and_part(place: int, length: int, shift: int) -> tuple[int, int]:
    """Which window a row of the map falls into once all rows moved up by `shift`, and whether it came round from the
    beginning.
    """
    padded = -(-length // WINDOW) * WINDOW
    return (place - shift) % padded // WINDOW, int(place < shift)


def attention_by_hand(block: SwinTransformerBlock, x: Tensor, shift: int) -> Tensor:
    """Swin's attention from its definition: one query at a time, keys gathered from the padded map, nothing rolled."""
    height, width, channels = x.shape
    padded_height, padded_width = (-(-side // WINDOW) * WINDOW for side in (height, width))
    tokens = {
        (i, j): x[i, j] if i < height and j < width else x.new_zeros(channels)
        for i in range(padded_height)
        for j in range(padded_width)
    }
    parts = {(i, j): (window_and_part(i, height, shift), window_and_part(j, width, shift)) for i, j in tokens}
    table = block.attn.relative_position_bias_table
    found = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            keys = [place for place in tokens if parts[place] == parts[i, j]]
            query = block.attn.qkv(tokens[i, j]).view(3, HEADS, -1)[0]
            _, key, value = (
                torch.stack([block.attn.qkv(tokens[place]) for place in keys]).view(len(keys), 3, HEADS, -1).unbind(1)
            )
            bias = torch.stack([table[(i - k + WINDOW - 1) * (2 * WINDOW - 1) + j - m + WINDOW - 1] for k, m in keys])
            weights = (torch.einsum("hc,khc->kh", query, key) * block.attn.scale + bias).softmax(0)
            found[i, j] = block.attn.proj(torch.einsum("kh,khc->hc", weights, value).flatten())
    return found


@pytest.mark.parametrize("shift", [0, SHIFT])
@pytest.mark.parametrize("size", [(7, 7), (10, 9), (3, 5), (8, 14)])
def test_attention_is_the_one_written_down_token_by_token(size: tuple[int, int], shift: int) -> None:
    block = block_of(SwinTransformerBlock, shift)
    assert isinstance(block, SwinTransformerBlock)
    x = torch.randn(2, *size, CHANNELS, dtype=torch.double)
    with torch.no_grad():
        expected = torch.stack([attention_by_hand(block, one, shift) for one in x])
        torch.testing.assert_close(WindowBlock(block).attend(x), expected)


@pytest.mark.parametrize("kind", [SwinTransformerBlock, SwinTransformerV2Block])
@pytest.mark.parametrize("shift", [0, SHIFT])
@pytest.mark.parametrize("size", [(7, 7), (14, 21)])
def test_on_whole_windows_it_is_timm_s_own_block(kind: type, shift: int, size: tuple[int, int]) -> None:
    block = block_of(kind, shift)
    x = torch.randn(2, *size, CHANNELS, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(WindowBlock(block)(x), block(x))


@pytest.mark.parametrize("kind", [SwinTransformerBlock, SwinTransformerV2Block])
@pytest.mark.parametrize("size", SIZES)
def test_the_first_rows_and_columns_do_not_reach_the_last_windows(kind: type, size: tuple[int, int]) -> None:
    """The first `SHIFT` rows and columns are windows of their own, whatever the size; one block serves all sizes."""
    block = WindowBlock(block_of(kind))
    x = torch.randn(1, *size, CHANNELS, dtype=torch.double)
    rows, columns = x.clone(), x.clone()
    rows[:, :SHIFT] += 1
    columns[:, :, :SHIFT] += 1
    with torch.no_grad():
        before = block(x)
        assert torch.equal(block(rows)[:, SHIFT:], before[:, SHIFT:])
        assert torch.equal(block(columns)[:, :, SHIFT:], before[:, :, SHIFT:])
        assert not torch.equal(block(rows)[:, :SHIFT], before[:, :SHIFT])


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224", "convnext_atto"])
def test_names_and_shapes_of_parameters_stay(name: str) -> None:
    with torch.device("meta"):
        body = timm.create_model(name)
        before = {key: value.shape for key, value in body.state_dict().items()}
        pad_before_shift(body)
    assert {key: value.shape for key, value in body.state_dict().items()} == before
    assert any(isinstance(part, WindowBlock) for part in body.modules()) == (name == "swin_tiny_patch4_window7_224")


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_bfloat16_and_gradients_at_sizes_that_vary(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(Timm(name=name)).train()
    for size in ((64, 96), (100, 200), (36, 36)):
        with torch.autocast("cpu", torch.bfloat16):
            maps = backbone(torch.randn(1, 3, *size))
        torch.stack([m.float().mean() for m in maps]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in backbone.parameters())
    half = backbone.eval().to(torch.bfloat16)
    with torch.no_grad():
        assert all(
            m.dtype == torch.bfloat16 and m.isfinite().all()
            for m in half(torch.randn(1, 3, 100, 64, dtype=torch.bfloat16))
        )

"""Attention in shifted windows (Swin, Liu et al. 2021, arXiv 2103.14030) on maps of any size."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

MASKED = -100.0
"""Added to the attention between parts of the map that do not touch; as Swin was trained with."""


class WindowBlock(nn.Module):
    """A block of timm's Swin (v1 or v2) that pads the map before it shifts the windows; its parts and their names stay
    timm's.

    timm shifts first and pads afterwards, but its mask is that of a padded, then shifted map. Where a side is no
    multiple of the window, the first rows then meet the last ones unmasked. Zeros are padded after the norm and take
    part in the attention as the code that Swin's authors trained detectors with has it. On maps of whole windows this
    is timm's own block.
    """

    def __init__(self, block: SwinTransformerBlock | SwinTransformerV2Block) -> None:
        super().__init__()
        self.norm_first = isinstance(block, SwinTransformerBlock)
        self.window, self.shift = tuple(block.window_size), tuple(block.shift_size)
        self.attn, self.mlp = block.attn, block.mlp
        self.norm1, self.drop_path1 = block.norm1, block.drop_path1
        self.norm2, self.drop_path2 = block.norm2, block.drop_path2

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """v1 has its norms before attention and layers, v2 after them."""
        if self.norm_first:
            x = x + self.drop_path1(self.attend(self.norm1(x)))
            return x + self.drop_path2(self.mlp(self.norm2(x)))
        x = x + self.drop_path1(self.norm1(self.attend(x)))
        return x + self.drop_path2(self.norm2(self.mlp(x)))

    def attend(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Attention of each token to those of its window."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window[1], 0, -height % self.window[0]))
        padded = (x.shape[1], x.shape[2])
        shifted = any(self.shift)
        mask = shift_mask(padded, self.window, self.shift, x) if shifted else None
        x = x.roll((-self.shift[0], -self.shift[1]), (1, 2)) if shifted else x
        x = whole(self.attn(windows(x, self.window), mask=mask), self.window, padded)
        x = x.roll(self.shift, (1, 2)) if shifted else x
        return x[:, :height, :width].contiguous()


def pad_before_shift(body: nn.Module) -> None:
    """Every block of timm's Swin inside `body` becomes a `WindowBlock`, weights and names kept; other networks are
    left as they are.
    """
    for name, child in list(body.named_children()):
        if isinstance(child, SwinTransformerBlock | SwinTransformerV2Block):
            setattr(body, name, WindowBlock(child))
        else:
            pad_before_shift(child)


def windows(x: Shaped[Tensor, "B H W C"], window: tuple[int, ...]) -> Shaped[Tensor, "N T C"]:
    """The tokens of each window, N windows of T tokens: those of an image one after the other, row by row."""
    return x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0])).transpose(2, 3).flatten(3, 4).flatten(0, 2)


def whole(x: Float[Tensor, "N T C"], window: tuple[int, ...], size: tuple[int, int]) -> Float[Tensor, "B H W C"]:
    """The map of `size` (H, W) that `windows` took apart."""
    rows, columns = size[0] // window[0], size[1] // window[1]
    return x.unflatten(1, window).unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(
    size: tuple[int, int], window: tuple[int, ...], shift: tuple[int, ...], like: Tensor
) -> Float[Tensor, "N T T"]:
    """0 between tokens that touch in the map before it was rolled by `shift`, `MASKED` between others of a window; of
    `like`'s type.

    Rolled, the last window along a side holds the map's end and, in its last `shift` tokens, the map's beginning.
    """
    rows, columns = (
        torch.arange(side, device=like.device) >= side - moved for side, moved in zip(size, shift, strict=True)
    )
    part = rows[:, None] * 2 + columns
    parts = windows(part[None, :, :, None], window).squeeze(2)
    return like.new_zeros(()).masked_fill(parts[:, :, None] != parts[:, None, :], MASKED)

"""Shifted-window attention (Swin, Liu et al. 2021, arXiv 2103.14030) on maps of any size."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

MASKED = -100.0
"""Added to attention logits between tokens that are not neighbors in the map; the value that Swin was trained with."""


class WindowBlock(nn.Module):
    """A block of timm's Swin (v1 or v2) that pads the map before it shifts the windows; parameter names stay timm's.

    timm shifts first and pads afterwards, but its mask is that of a padded, then shifted map. If a side is not a
    multiple of the window, the first rows then attend to the last ones unmasked. Zeros are padded after the norm and
    take part in the attention, as in the code that Swin's authors trained detectors with. On maps of whole windows the
    result equals timm's.
    """

    def __init__(self, block: SwinTransformerBlock | SwinTransformerV2Block) -> None:
        super().__init__()
        self.norm_first = isinstance(block, SwinTransformerBlock)
        self.window, self.shift = tuple(block.window_size), tuple(block.shift_size)
        self.attn, self.mlp = block.attn, block.mlp
        self.norm1, self.drop_path1 = block.norm1, block.drop_path1
        self.norm2, self.drop_path2 = block.norm2, block.drop_path2

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Apply attention and MLP; v1 has its norms before them, v2 after them."""
        if self.norm_first:
            x = x + self.drop_path1(self.attend(self.norm1(x)))
            return x + self.drop_path2(self.mlp(self.norm2(x)))
        x = x + self.drop_path1(self.norm1(self.attend(x)))
        return x + self.drop_path2(self.norm2(self.mlp(x)))

    def attend(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Attention of each token to the tokens of its window."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window[1], 0, -height % self.window[0]))
        padded = (x.shape[1], x.shape[2])
        shifted = any(self.shift)
        mask = shift_mask(padded, self.window, self.shift, x) if shifted else None
        x = x.roll((-self.shift[0], -self.shift[1]), (1, 2)) if shifted else x
        x = merge_windows(self.attn(windows(x, self.window), mask=mask), self.window, padded)
        x = x.roll(self.shift, (1, 2)) if shifted else x
        return x[:, :height, :width].contiguous()


def pad_before_shift(body: nn.Module) -> None:
    """Replace every block of timm's Swin inside `body` with a `WindowBlock` of the same weights and names; other
    networks are not changed.
    """
    for name, child in list(body.named_children()):
        if isinstance(child, SwinTransformerBlock | SwinTransformerV2Block):
            setattr(body, name, WindowBlock(child))
        else:
            pad_before_shift(child)


def windows(x: Shaped[Tensor, "B H W C"], window: tuple[int, ...]) -> Shaped[Tensor, "N T C"]:
    """Split maps into windows: N windows of T tokens, image by image, row by row."""
    return x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0])).transpose(2, 3).flatten(3, 4).flatten(0, 2)


def merge_windows(
    x: Float[Tensor, "N T C"], window: tuple[int, ...], size: tuple[int, int]
) -> Float[Tensor, "B H W C"]:
    """Inverse of `windows`, for maps of `size` (H, W)."""
    rows, columns = size[0] // window[0], size[1] // window[1]
    return x.unflatten(1, window).unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(
    size: tuple[int, int], window: tuple[int, ...], shift: tuple[int, ...], like: Tensor
) -> Float[Tensor, "N T T"]:
    """Attention mask, in the dtype of `like`: 0 between tokens that are neighbors in the map before it was rolled by
    `shift`, else `MASKED`.

    After rolling, the last window along a side holds the end of the map and, in its last `shift` tokens, its beginning.
    """
    rows, columns = (
        torch.arange(side, device=like.device) >= side - moved for side, moved in zip(size, shift, strict=True)
    )
    part = rows[:, None] * 2 + columns
    parts = windows(part[None, :, :, None], window).squeeze(2)
    return like.new_zeros(()).masked_fill(parts[:, :, None] != parts[:, None, :], MASKED)

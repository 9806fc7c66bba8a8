"""FishNet-99 and -150 (Sun et al. 2018, arXiv 1901.03495): down the tail, up the body, down the head; all features are
kept.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import BackboneNorm, FishNet
from htc.model.layers import initialize
from htc.model.norms import norm

STEM = 64
TAIL = (128, 256, 512)
NECK = 512
BODY = (512, 384, 256)
HEAD = (320, 832, 1600)
SQUEEZE = 16


@dataclass(frozen=True)
class Depths:
    """Number of blocks of each stage; `transfers` are the blocks on the connections to body (3) and head (3)."""

    tail: tuple[int, int, int]
    neck: int
    body: tuple[int, int, int]
    head: tuple[int, int, int]
    transfers: tuple[int, int, int, int, int, int]


DEPTHS = {
    99: Depths((2, 2, 6), 2, (1, 1, 1), (1, 2, 2), (1, 1, 1, 1, 1, 4)),
    150: Depths((2, 4, 8), 4, (2, 2, 2), (2, 2, 4), (2, 2, 2, 2, 2, 4)),
}


class Block(nn.Module):
    """A pre-activation bottleneck with a shortcut.

    The shortcut is the identity, a convolution if the width changes, or, on the way up the body (`reduce`), the sum of
    each group of `reduce` neighboring channels (the paper's channel-wise reduction), so that gradients reach the tail
    without passing a convolution.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kind: BackboneNorm, *, reduce: int = 0, dilation: int = 1
    ) -> None:
        super().__init__()
        width = channels_out // 4
        self.norm1, self.conv1 = norm(kind, channels_in), nn.Conv2d(channels_in, width, 1, bias=False)
        self.norm2, self.conv2 = (
            norm(kind, width),
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
        )
        self.norm3, self.conv3 = norm(kind, width), nn.Conv2d(width, channels_out, 1, bias=False)
        self.reduce = reduce
        changes = not reduce and channels_in != channels_out
        self.shortcut = (
            nn.Sequential(norm(kind, channels_in), nn.ReLU(), nn.Conv2d(channels_in, channels_out, 1, bias=False))
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        y = self.conv1(self.norm1(x).relu())
        y = self.conv2(self.norm2(y).relu())
        y = self.conv3(self.norm3(y).relu())
        return y + (x.unflatten(1, (-1, self.reduce)).sum(2) if self.reduce else self.shortcut(x))


def blocks(
    channels_in: int, channels_out: int, count: int, kind: BackboneNorm, *, reduce: int = 0, dilation: int = 1
) -> nn.Sequential:
    """Stack `count` blocks, the first of which changes the width."""
    later = (Block(channels_out, channels_out, kind, dilation=dilation) for _ in range(count - 1))
    return nn.Sequential(Block(channels_in, channels_out, kind, reduce=reduce, dilation=dilation), *later)


class Neck(nn.Module):
    """Between tail and body: a wider feature, then blocks weighted by squeeze-and-excitation attention, which is also
    added.
    """

    def __init__(self, channels: int, count: int, kind: BackboneNorm) -> None:
        super().__init__()
        half, wide = channels // 2, 2 * channels
        self.widen = nn.Sequential(
            norm(kind, channels),
            nn.ReLU(),
            nn.Conv2d(channels, half, 1, bias=False),
            norm(kind, half),
            nn.ReLU(),
            nn.Conv2d(half, wide, 1),
        )
        squeezed = NECK // SQUEEZE
        self.attention = nn.Sequential(
            norm(kind, wide),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, NECK, 1),
            nn.Sigmoid(),
        )
        self.blocks = blocks(wide, NECK, count, kind)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 512, H, W) -> (N, 512, H, W)."""
        x = self.widen(x)
        weight = self.attention(x)
        return self.blocks(x) * weight + weight


class FishFeatures(nn.Module):
    """Image -> C2 (end of the body) and C3-C5 (head), each the concatenation of all earlier features of its resolution.

    Differs from the paper by: no classifier. Upsampling uses the size of the map that it is joined with, for maps with
    odd sides.
    """

    channels = (HEAD[0], *HEAD[1:], HEAD[2] + NECK)

    def __init__(self, config: FishNet) -> None:
        super().__init__()
        kind, depths = config.norm, DEPTHS[config.depth]
        self.stem = nn.Sequential(
            *_stem(3, STEM // 2, kind, 2), *_stem(STEM // 2, STEM // 2, kind), *_stem(STEM // 2, STEM, kind)
        )
        widths = (STEM, *TAIL)
        self.tail = nn.ModuleList(blocks(widths[i], widths[i + 1], depths.tail[i], kind) for i in range(3))
        self.neck = Neck(TAIL[-1], depths.neck, kind)
        joined = (NECK, BODY[0] + TAIL[1], BODY[1] + TAIL[0], BODY[2] + STEM)
        self.body = nn.ModuleList(
            blocks(joined[i], BODY[i], depths.body[i], kind, reduce=joined[i] // BODY[i], dilation=2**i)
            for i in range(3)
        )
        self.head = nn.ModuleList(blocks(HEAD[i], HEAD[i], depths.head[i], kind) for i in range(3))
        carried = (TAIL[1], TAIL[0], STEM, joined[2], joined[1], joined[0])
        self.transfers = nn.ModuleList(
            blocks(width, width, count, kind) for width, count in zip(carried, depths.transfers, strict=True)
        )
        initialize(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> [C2, C3, C4, C5] with 320, 832, 1600 and 2112 channels."""
        down = [F.max_pool2d(self.stem(x), 3, 2, padding=1)]
        for stage in self.tail:
            down.append(F.max_pool2d(stage(down[-1]), 2))
        up = [self.neck(down[-1])]
        for i, stage in enumerate(self.body):
            skip = self.transfers[i](down[2 - i])
            up.append(torch.cat([F.interpolate(stage(up[-1]), size=skip.shape[-2:], mode="nearest"), skip], 1))
        features = [up[-1]]
        for i, stage in enumerate(self.head):
            features.append(torch.cat([F.max_pool2d(stage(features[-1]), 2), self.transfers[3 + i](up[2 - i])], 1))
        return features


def _stem(channels_in: int, channels_out: int, kind: BackboneNorm, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False), norm(kind, channels_out), nn.ReLU()]

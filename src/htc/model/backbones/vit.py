"""Plain vision transformer with a simple feature pyramid (Li et al. 2022, "Exploring plain vision transformer
backbones", arXiv 2203.16527).
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from timm.layers import LayerNorm2d  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from htc.config import ViT
from htc.errors import ConfigError
from htc.model.backbones.timm_features import check_name, create

PATCH = 16


class PlainViT(nn.Module):
    """C2-C5 of strides 4, 8, 16 and 32, all computed from the transformer's last feature by deconvolution and pooling.

    Differs from the paper by: attention is global in every block (in the paper, all but four use windows); position
    embeddings are interpolated to each image's size; the transformer's final LayerNorm is applied (the authors' code
    omits it and has LayerNorms in the pyramid's convolutions, which are plain here); the 1x1 and 3x3 convolutions after
    the maps are the neck's, including the top-down path. Raises `ConfigError` for names that are not a vision
    transformer with 16-pixel patches.
    """

    def __init__(self, config: ViT, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        check_name(config.name)
        extra = {"drop_path_rate": config.drop_path_rate} if config.drop_path_rate else {}
        body: Any = create(config.name, weights, num_classes=0, global_pool="", dynamic_img_size=True, **extra)
        if tuple(getattr(body.patch_embed, "patch_size", ())) != (PATCH, PATCH):
            raise ConfigError(
                f"backbone.name {config.name}: its patches are not {PATCH} pixels; use a network such as "
                f"vit_base_patch16_224"
            )
        self.body, width = body, body.embed_dim
        self.channels = (width // 4, width // 2, width, width)
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, 2),
            LayerNorm2d(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, 2),
        )
        self.up8 = nn.ConvTranspose2d(width, width // 2, 2, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W), both sides multiples of 32 -> [C2, C3, C4, C5]."""
        x = self.body.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[0]
        return [self.up4(x), self.up8(x), x, F.max_pool2d(x, 2)]

"""The region part that a configuration describes: which pools, heads and flows the cascade is given."""

from functools import partial

from torch import nn

from htc.config import Config, FineMask, FusionMask, NoMask
from htc.model.cascade import HybridTaskCascade
from htc.model.fusion import FusedPool, PackedPool, Pool, RegionPooling
from htc.model.heads import BOX_BINS, MASK_BINS, BoxHead, MaskHead
from htc.model.layers import ConvBlock, initialise
from htc.model.variants.adaptive_pool import POOLED_LEVELS, AdaptivePool
from htc.model.variants.fine_mask import FINER, DetailPool, FineMaskHead
from htc.model.variants.fusion_mask import FusionMaskHead
from htc.model.variants.mask_flow import PackedFlow
from htc.ops.roi_pool import roi_pool
from htc.ops.roi_pool_variants import precise_roi_pool, sampled_roi_pool

POOLINGS: dict[str, RegionPooling] = {"align": roi_pool, "precise": precise_roi_pool, "torchvision": sampled_roi_pool}


def build_cascade(config: Config) -> HybridTaskCascade:
    """Heads, flows and pools of the region part."""
    cascade, width, levels = config.cascade, config.neck.channels, _levels(config)
    box_heads = [BoxHead(width, config.num_classes, cascade, stds, levels) for stds in cascade.delta_stds]
    mask_heads = (
        [] if isinstance(cascade.mask_head, NoMask) else [_mask_head(config) for _ in range(cascade.num_stages)]
    )
    flows = (
        [ConvBlock(cascade.mask_channels, width, 1) for _ in range(cascade.num_stages - 1)] if cascade.mask_flow else []
    )
    for flow in flows:
        initialise(flow)
    flows = [_flow(flow, config) for flow in flows]
    return HybridTaskCascade(
        PackedPool(_box_pool(config)), PackedPool(_mask_pool(config)), box_heads, mask_heads, flows, cascade.interleaved
    )


def _levels(config: Config) -> int:
    return POOLED_LEVELS if config.cascade.pooled_levels == "all" else 1


def _box_pool(config: Config) -> Pool:
    fuse = config.cascade.semantic_fusion in ("box", "both")
    pool = FusedPool(
        BOX_BINS, fuse=fuse, semantic_subdivide=MASK_BINS // BOX_BINS, pooling=POOLINGS[config.cascade.pooling]
    )
    return pool if _levels(config) == 1 else AdaptivePool(pool)


def _mask_pool(config: Config) -> Pool:
    cascade = config.cascade
    pool: Pool = FusedPool(
        MASK_BINS, fuse=cascade.semantic_fusion in ("mask", "both"), pooling=POOLINGS[cascade.pooling]
    )
    if _levels(config) > 1:
        pool = AdaptivePool(pool)
    return DetailPool(pool) if isinstance(cascade.mask_head, FineMask) else pool


def _mask_head(config: Config) -> MaskHead:
    cascade = config.cascade
    parts = (config.neck.channels, config.num_classes, cascade)
    match cascade.mask_head:
        case FineMask() as fine:
            return FineMaskHead(*parts, fine, _levels(config))
        case FusionMask():
            return FusionMaskHead(*parts, _levels(config))
        case _:
            return MaskHead(*parts, _levels(config))


def _flow(flow: nn.Module, config: Config) -> nn.Module:
    """G_t; the plain one wherever a mask path carries one feature."""
    cascade, levels = config.cascade, _levels(config)
    packed = partial(PackedFlow, flow, cascade.mask_channels, levels)
    match cascade.mask_head:
        case FineMask() as fine:
            return packed(fine.detail_channels * FINER**2)
        case FusionMask():
            return packed(0)
        case _:
            return flow if levels == 1 else packed(0)

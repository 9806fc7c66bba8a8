"""The paper's settings, where the released configurations differ from them."""

from collections.abc import Callable

from htc.config import Config
from htc.presets.coco import BACKBONES, TWENTY_EPOCHS, cascade_mask_rcnn, htc, mask_rcnn


def paper(config: Config) -> Config:
    """Apply the paper's values where the released configurations differ: beta 1, score threshold 0.001, one matching
    rule.
    """
    semantic = None if config.semantic is None else {"loss_weight": 1.0}
    return config.replace(
        semantic=semantic,
        cascade={"low_quality_matches": True},
        inference={"score_threshold": 0.001},
        training=TWENTY_EPOCHS,
    )


PAPER: dict[str, Callable[[], Config]] = {
    "htc_r50_fpn_20e_paper": lambda: paper(htc("htc_r50_fpn_20e_paper", BACKBONES["r50"])),
    "cascade_mask_rcnn_r50_fpn_20e_paper": lambda: paper(
        cascade_mask_rcnn("cascade_mask_rcnn_r50_fpn_20e_paper", BACKBONES["r50"])
    ),
    "mask_rcnn_r50_fpn_20e_paper": lambda: paper(mask_rcnn("mask_rcnn_r50_fpn_20e_paper", BACKBONES["r50"])),
}

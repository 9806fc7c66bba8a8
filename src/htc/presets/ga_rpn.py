"""Proposals from guided anchoring (Table 7, row GA-RPN)."""

from collections.abc import Callable

from htc.config import Config, GuidedRPN, Training
from htc.presets.coco import BACKBONES, TWENTY_EPOCHS, htc
from htc.presets.small import htc_r18_small

THREE_EPOCHS = Training(epochs=3, milestones=(1, 2))


def htc_ga_rpn(name: str, training: Training) -> Config:
    """HTC whose proposals come from guided anchoring, trained together with all the rest.

    The paper's step from 44.3 to 45.3 mask AP (Table 7, with SENet-154) finetuned a trained detector: that is the
    schedule of three epochs, `htc train --preset htc_r50_fpn_ga_rpn_finetune_3e --weights TRAINED_HTC`, where
    everything but the proposals' own layers starts from the given weights. The longer schedule needs ImageNet weights,
    or the frozen layers stay random: `htc train --preset htc_r50_fpn_ga_rpn_20e --backbone.pretrained true`. Nobody has
    published an AP of these presets with ResNet-50, and we have not trained them on COCO.
    """
    return htc(name, BACKBONES["r50"], training).model_copy(update={"rpn": GuidedRPN()})


def htc_r18_small_ga_rpn(name: str) -> Config:
    """`htc_r18_small` with guided anchoring; squares as large as its anchors, as many proposals."""
    rpn = GuidedRPN(
        anchor_scale=4.0, candidates_per_level=500, training_candidates_per_level=500, training_proposals=1000
    )
    return htc_r18_small(name).model_copy(update={"rpn": rpn})


GA_RPN: dict[str, Callable[[], Config]] = {
    "htc_r50_fpn_ga_rpn_20e": lambda: htc_ga_rpn("htc_r50_fpn_ga_rpn_20e", TWENTY_EPOCHS),
    "htc_r50_fpn_ga_rpn_finetune_3e": lambda: htc_ga_rpn("htc_r50_fpn_ga_rpn_finetune_3e", THREE_EPOCHS),
    "htc_r18_small_ga_rpn": lambda: htc_r18_small_ga_rpn("htc_r18_small_ga_rpn"),
}

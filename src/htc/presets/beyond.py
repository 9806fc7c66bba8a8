"""The step beyond the paper: HTC under transformers and modern convolutional networks, an open "HTC++".

Swin's authors report an improved HTC, "HTC++", of 56.4 box and 49.1 mask AP with Swin-B and 57.1 and 49.5 with Swin-L on COCO
val2017 (arXiv 2103.14030, Table 2c, without test-time augmentation); neither recipe nor weights were released. These presets follow
what the paper says (its appendix A2.2): ImageNet-22K weights, AdamW at 1e-4 with weight decay 0.05, stochastic depth 0.2, short
edge 400-1400 and long edge 1600, 72 epochs with steps after 63 and 69, Soft-NMS. They differ from it: no InstaBoost, no global
attention after the last stage; LayerNorm on each feature map and layer decay as their papers have for detection or as chosen here.

Nobody has trained these to the end yet: their AP is not known. Meant for 16 GPUs of one picture each (of 40 GB or more for Swin-L
and ViT-B); in one process give --batch-size and fewer epochs.

    htc train --preset htcpp_swin_b --data coco --semantic stuffthingmaps --batch-size 2
"""

from collections.abc import Callable

from htc.config import AdamW, Augmentation, Backbone, Config, Inference, LinearSoftNMS, Timm, Training, ViT
from htc.presets.official import htc


def beyond(name: str, backbone: Backbone, *, layer_decay: float = 1.0) -> Config:
    """The full HTC under that backbone with the recipe of this module."""
    training = Training(
        epochs=72,
        milestones=(63, 69),
        warmup_steps=1000,
        clip_gradients=10.0,
        optimizer=AdamW(lr=1e-4, weight_decay=0.05, weight_decay_of="weights", layer_decay=layer_decay),
        augmentation=Augmentation(short_edges=(400, 1400), long_edge=1600),
    )
    return htc(name, backbone, training).model_copy(update={"inference": Inference(soft_nms=LinearSoftNMS())})


def swin(size: str, drop_path_rate: float) -> Timm:
    """Swin of ImageNet-22K with windows of 7, as for detection."""
    return Timm(name=f"swin_{size}_patch4_window7_224.ms_in22k", output_norm="layer", drop_path_rate=drop_path_rate, pretrained=True)


BEYOND: dict[str, Callable[[], Config]] = {
    "htcpp_swin_b": lambda: beyond("htcpp_swin_b", swin("base", 0.2)),
    "htcpp_swin_l": lambda: beyond("htcpp_swin_l", swin("large", 0.2)),
    "htcpp_convnext_b": lambda: beyond(
        "htcpp_convnext_b", Timm(name="convnext_base.fb_in22k", output_norm="layer", drop_path_rate=0.4, pretrained=True), layer_decay=0.9
    ),
    "htcpp_vit_b": lambda: beyond("htcpp_vit_b", ViT(name="vit_base_patch16_224.mae", drop_path_rate=0.1, pretrained=True), layer_decay=0.7),
}

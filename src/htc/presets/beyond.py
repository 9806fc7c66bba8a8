"""The step beyond the paper: HTC under transformers and modern convolutional networks, an open "HTC++".

Swin's authors report an improved HTC, "HTC++", of 56.4 box and 49.1 mask AP with Swin-B and 57.1 and 49.5 with Swin-L
on COCO val2017 (arXiv 2103.14030, Table 2c, without test-time augmentation); neither recipe nor weights were released.
These presets follow what the paper says (its appendix A2.2): ImageNet-22K weights, AdamW at 1e-4 with weight decay
0.05, stochastic depth 0.2, short edge 400-1400 and long edge 1600, 72 epochs with steps after 63 and 69, Soft-NMS. They
differ from it by:

- no global attention after the last stage; LayerNorm on each feature map and layer decay as their papers have for
  detection or as
  chosen here;
- copy-paste (Ghiasi et al. 2021, arXiv 2012.07177) where HTC++ has InstaBoost, which also pastes objects but has to
  inpaint the
  places that they leave. As with InstaBoost every second picture is changed, so that the other half keeps the
  statistics of
  real scenes; of the second picture each object is pasted with probability 1/2, a uniformly drawn subset as in Ghiasi's
  section 3.
  Pixels, masks, boxes and the semantic map move together. Both pictures are scaled as HTC++ scales, not by Ghiasi's
  jitter of 0.1-2.

Known: every preset is built, makes a training step and a prediction in the tests, on its smallest relative. Not known:
their AP, and what copy-paste adds to it; nobody has trained these to the end.

Hardware: meant for 16 GPUs of one picture each, as in the paper, of 40 GB or more for Swin-L and ViT-B: an estimate,
not measured. AdamW's learning rate is for 16 pictures a step and does not follow the batch: in fewer processes give
`--training.accumulate`.

    htc train --preset htcpp_swin_b --data coco --semantic stuffthingmaps --batch-size 1 --devices 8 --nodes 2
    htc train --preset htcpp_swin_b --data coco --semantic stuffthingmaps --batch-size 1 --training.accumulate 16
"""

from collections.abc import Callable

from htc.config import AdamW, Augmentation, Backbone, Config, CopyPaste, Inference, LinearSoftNMS, Timm, Training, ViT
from htc.presets.coco import htc


def beyond(name: str, backbone: Backbone, *, layer_decay: float = 1.0) -> Config:
    """The full HTC under that backbone with the recipe of this module."""
    training = Training(
        epochs=72,
        milestones=(63, 69),
        warmup_steps=1000,
        clip_gradients=10.0,
        optimizer=AdamW(lr=1e-4, weight_decay=0.05, weight_decay_of="weights", layer_decay=layer_decay),
        augmentation=Augmentation(
            short_edges=(400, 1400), long_edge=1600, copy_paste=CopyPaste(probability=0.5, share=0.5)
        ),
    )
    return htc(name, backbone, training).model_copy(update={"inference": Inference(soft_nms=LinearSoftNMS())})


def swin(size: str, drop_path_rate: float) -> Timm:
    """Swin of ImageNet-22K with windows of 7, as for detection."""
    return Timm(
        name=f"swin_{size}_patch4_window7_224.ms_in22k",
        output_norm="layer",
        drop_path_rate=drop_path_rate,
        pretrained=True,
    )


BEYOND: dict[str, Callable[[], Config]] = {
    "htcpp_swin_b": lambda: beyond("htcpp_swin_b", swin("base", 0.2)),
    "htcpp_swin_l": lambda: beyond("htcpp_swin_l", swin("large", 0.2)),
    "htcpp_convnext_b": lambda: beyond(
        "htcpp_convnext_b",
        Timm(name="convnext_base.fb_in22k", output_norm="layer", drop_path_rate=0.4, pretrained=True),
        layer_decay=0.9,
    ),
    "htcpp_vit_b": lambda: beyond(
        "htcpp_vit_b", ViT(name="vit_base_patch16_224.mae", drop_path_rate=0.1, pretrained=True), layer_decay=0.7
    ),
}

"""Recognize weights of libraries and architectures that are not supported, so that an error can name them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from htc.errors import CheckpointError

_SUPPORTED = (
    "htc loads Mask R-CNN, Cascade Mask R-CNN and HTC with an FPN: its own weights, and those of mmdetection, "
    "detectron2, torchvision and the Paddle reproduction"
)
_BACKBONE = "a training can start from it: htc train --backbone.pretrained FILE, with the backbone of the file"
_CLASSIFIER = "a classification backbone"

_KINDS: dict[str, tuple[str, ...]] = {
    "SAM 2 (Segment Anything 2)": ("sam_mask_decoder.",),
    "SAM (Segment Anything)": ("mask_decoder. + prompt_encoder.",),
    "Mask2Former, MaskFormer, OneFormer or Mask DINO": (
        "sem_seg_head.predictor.",
        "pixel_level_module.",
        "panoptic_head.",
    ),
    "RT-DETR or D-FINE": ("denoising_class_embed.", "dec_score_head."),
    "DETR or one of its successors": (
        "class_embed. + transformer.",
        "query_position_embeddings.",
        "query_embedding.",
        "cls_branches.",
    ),
    "Sparse R-CNN or QueryInst": ("init_proposal_bboxes.", "init_proposal_features."),
    "YOLO (Ultralytics, YOLOv5 to v12)": ("cv1.conv.weight",),
    "YOLOX": ("head.cls_preds.", "bbox_head.multi_level_cls_convs."),
    "YOLO (Darknet, YOLOv3 or v4)": ("^module_list.0.", "^0.conv_0.", "^0.Conv2d."),
    "YOLACT": ("prediction_layers.",),
    "SOLO or SOLOv2": ("^mask_head.cls_convs.", "mask_feature_head.", "ins_head.cate_pred."),
    "FCOS, CondInst or BlendMask of AdelaiDet": ("fcos_head.",),
    "a single-stage detector of torchvision (RetinaNet, FCOS, SSD)": ("^head.classification_head.",),
    "RetinaNet of detectron2": ("^head.cls_subnet.",),
    "a single-stage detector of mmdetection (RetinaNet, FCOS, ATSS, RTMDet ...)": (
        "^bbox_head.cls_convs.",
        "^bbox_head.retina_cls.",
        "^bbox_head.rtm_cls.",
        "^bbox_head.convs_pred.",
        "^bbox_head.heatmap_head.",
        "^bbox_head.head_module.",
    ),
    "segmentation-models (U-Net, FPN, DeepLab ...)": ("^segmentation_head.",),
    "SegFormer": ("decode_head.linear_c.", "segformer.encoder."),
    "a semantic segmentation of mmsegmentation": ("^decode_head.",),
    "a semantic segmentation of torchvision (DeepLab, FCN, LR-ASPP)": (
        "^classifier.4. + ^backbone.",
        "^classifier.cbr. + ^backbone.",
    ),
    "nnU-Net": ("decoder.seg_layers.",),
    "Cellpose": ("downsample.down.res_down_0.",),
    "U-Net": ("inc.double_conv.", "^inc. + ^down1. + ^up1.", "^encoder1. + ^decoder1."),
    "CLIP": ("visual. + token_embedding.", "vision_model. + text_model."),
    "a diffusion model": ("diffusion_model.", "^down_blocks. + ^up_blocks."),
    "a language model": (
        "self_attn.q_proj. + embed_tokens.",
        "attention.self.query. + word_embeddings.",
        "attn.c_attn.",
    ),
    "a self-supervised training (MoCo, BYOL ...)": ("^encoder_q.", "^online_encoder.", "^momentum_encoder."),
    f"{_CLASSIFIER} (Swin)": ("relative_position_bias_table + ^layers.0.blocks.0.", "^features.1.0.attn."),
    f"{_CLASSIFIER} (ViT)": (
        "^patch_embed. + ^blocks.0.",
        "embeddings.patch_embeddings. + encoder.layer.0.",
        "^conv_proj. + ^encoder.layers.",
    ),
    f"{_CLASSIFIER} (ConvNeXt)": ("^stages.0.blocks.0.conv_dw.", "^stages.0.0.dwconv.", "^features.1.0.layer_scale"),
    f"{_CLASSIFIER} (EfficientNet or MobileNet)": ("^conv_stem.", "^features.0.0. + ^classifier."),
    f"{_CLASSIFIER} (RegNet)": ("^stem. + ^s1.", "^trunk_output."),
    f"{_CLASSIFIER} (VGG or DenseNet)": ("^features. + ^classifier.", "^features. + ^head.fc."),
    f"{_CLASSIFIER} (HRNet)": ("^stage2. + ^stage3. + ^transition1.",),
    f"{_CLASSIFIER} (FishNet)": ("^fish.",),
    f"{_CLASSIFIER} (ResNet)": ("^conv1. + ^layer1.0.",),
}
"""Alternatives for each kind: beginnings of parameter names, joined by " + " if all of them must be there. They may
follow any dot in a name, or with "^" only begin it. The first kind that fits counts.
"""


def recognize(names: Iterable[str]) -> str | None:
    """Return the library or architecture of a state dict with these names, without prefixes of wrappers, or None."""
    lines = "\n".join(f"^{name}" for name in names)
    for kind, alternatives in _KINDS.items():
        if any(all(_is_in(part, lines) for part in each.split(" + ")) for each in alternatives):
            return kind
    return None


def _is_in(part: str, lines: str) -> bool:
    return part in lines if part.startswith("^") else f"^{part}" in lines or f".{part}" in lines


def require_supported(path: Path, names: Sequence[str]) -> None:
    """Raise `CheckpointError` for weights that are recognized as those of another library or architecture."""
    kind = recognize(names)
    if kind is not None:
        raise CheckpointError(
            f"{path}: weights of {kind}, as its parameter names show ({', '.join(names[:2])}, ...), cannot be loaded. "
            f"{_BACKBONE.capitalize() if kind.startswith(_CLASSIFIER) else _SUPPORTED}"
        )

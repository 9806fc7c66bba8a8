"""Weights of other libraries and architectures are recognized by their parameter names."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from checkpoint.historical import as_v1, as_v2, random_state, tiny_config
from htc.checkpoint.foreign import recognize
from htc.checkpoint.load import load_model
from htc.checkpoint.prefixes import without_common_prefix
from htc.errors import CheckpointError

NAMES = {
    "SAM": (
        "image_encoder.pos_embed",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "mask_decoder.transformer.layers.0.self_attn.q_proj.weight",
    ),
    "SAM 2": ("image_encoder.trunk.pos_embed", "memory_attention.norm.weight", "sam_mask_decoder.iou_token.weight"),
    "Mask2Former": ("backbone.res2.0.conv1.weight", "sem_seg_head.predictor.query_feat.weight"),
    "MaskFormer": ("model.pixel_level_module.encoder.embeddings.norm.weight", "class_predictor.weight"),
    "DETR": (
        "transformer.encoder.layers.0.self_attn.in_proj_weight",
        "class_embed.weight",
        "query_embed.weight",
        "backbone.0.body.conv1.weight",
    ),
    "RT-DETR": ("model.denoising_class_embed.weight", "model.decoder.layers.0.fc1.weight"),
    "YOLO": ("model.0.conv.weight", "model.2.cv1.conv.weight", "model.22.dfl.conv.weight"),
    "YOLOX": ("backbone.backbone.stem.conv.conv.weight", "head.cls_preds.0.weight"),
    "YOLACT": ("backbone.layers.0.0.conv1.weight", "proto_net.0.weight", "prediction_layers.0.bbox_layer.weight"),
    "SOLO": ("backbone.conv1.weight", "mask_head.mask_feature_head.conv_pred.conv.weight"),
    "single-stage detector of mmdetection": ("backbone.conv1.weight", "bbox_head.cls_convs.0.conv.weight"),
    "segmentation-models": ("encoder.conv1.weight", "decoder.blocks.0.conv1.0.weight", "segmentation_head.0.weight"),
    "mmsegmentation": ("backbone.conv1.weight", "decode_head.conv_seg.weight"),
    "nnU-Net": ("encoder.stages.0.0.convs.0.conv.weight", "decoder.seg_layers.0.weight"),
    "U-Net": ("inc.double_conv.0.weight", "down1.maxpool_conv.1.double_conv.0.weight", "outc.conv.weight"),
    "CLIP": ("visual.conv1.weight", "token_embedding.weight", "transformer.resblocks.0.ln_1.weight"),
    "language model": ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"),
}
CLASSIFIERS = (
    *("resnet50", "convnext_tiny", "swin_tiny_patch4_window7_224", "vit_small_patch16_224", "efficientnet_b0"),
    *("regnety_008", "mobilenetv3_large_100", "densenet121", "vgg16", "hrnet_w18"),
)
TORCHVISION = {
    **dict.fromkeys(("resnet50", "convnext_tiny", "swin_t", "vit_b_16", "efficientnet_b0"), "classification backbone"),
    **dict.fromkeys(("densenet121", "vgg16", "mobilenet_v3_small"), "classification backbone"),
    **dict.fromkeys(("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16"), "single-stage detector"),
    **dict.fromkeys(("deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large"), "semantic segmentation"),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_other_architectures_are_named(tmp_path: Path, kind: str, suffix: str, prefix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    weights = {prefix + name: torch.zeros(2, 2) for name in NAMES[kind]}
    save_file(weights, path) if suffix == "safetensors" else torch.save({"model": weights, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match=f"weights of [^:]*{kind}.* cannot be loaded") as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_of_timm(name: str) -> None:
    with torch.device("meta"):
        names = list(timm.create_model(name).state_dict())
    assert str(recognize(without_common_prefix(names))).startswith("a classification backbone")


@pytest.mark.parametrize("name", TORCHVISION)
def test_models_of_torchvision(name: str) -> None:
    options = {} if TORCHVISION[name].startswith("class") else {"weights_backbone": None}
    with torch.device("meta"):
        names = list(torchvision.models.get_model(name, weights=None, **options).state_dict())
    assert TORCHVISION[name] in str(recognize(without_common_prefix(names)))


def test_supported_weights_are_never_taken_for_others() -> None:
    state = random_state(tiny_config())
    for names in (state, as_v2(state), as_v1(state), as_v2(state, one_stage=True)):
        assert recognize(names) is None
        for missing in names:  # a damaged file of a supported library stays one
            assert recognize(name for name in names if name != missing) is None


@pytest.mark.parametrize(
    ("module", "of"),
    [("ultralytics.nn.tasks", "Ultralytics YOLO"), ("timm.models.resnet", "timm"), ("models.yolo", "YOLOv5")],
)
def test_whole_pickled_models_are_named(tmp_path: Path, module: str, of: str) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x02c" + module.encode() + b"\nModel\n)\x81.")
    with pytest.raises(CheckpointError, match=f"a whole pickled model of {of}"):
        load_model(tmp_path / "a.pt")

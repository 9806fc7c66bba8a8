"""Files of detectron2 and of the Paddle reproduction, generated with their names, shapes and row order, load as the
detector they came from.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from checkpoint.historical import random_state
from htc.checkpoint.load import load_model
from htc.checkpoint.native import save_pretrained
from htc.config import FPN, RPN, Cascade, Config, ResNet, Semantic
from htc.errors import CheckpointError
from htc.model.backbone import build_backbone

STRIDE = {"backbone": {"stride_in": "1x1"}}
_DETECTRON2 = (
    (r"^backbone\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"^backbone\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    (
        r"^backbone\.layer(\d)\.(\d+)\.downsample\.0\.",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.shortcut.",
    ),
    (
        r"^backbone\.layer(\d)\.(\d+)\.downsample\.1\.",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.shortcut.norm.",
    ),
    (
        r"^backbone\.layer(\d)\.(\d+)\.bn(\d)\.",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm.",
    ),
    (
        r"^backbone\.layer(\d)\.(\d+)\.conv2\.conv_offset\.",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.conv2_offset.",
    ),
    (r"^backbone\.layer(\d)\.", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}."),
    (r"^neck\.lateral\.(\d)\.conv\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}."),
    (r"^neck\.output\.(\d)\.conv\.", lambda m: f"backbone.fpn_output{int(m[1]) + 2}."),
    (r"^neck\.lateral\.(\d)\.norm\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}.norm."),
    (r"^neck\.output\.(\d)\.norm\.", lambda m: f"backbone.fpn_output{int(m[1]) + 2}.norm."),
    (r"^rpn\.conv\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.further\.(\d)\.", lambda m: f"proposal_generator.rpn_head.conv.conv{int(m[1]) + 1}."),
    (r"^rpn\.objectness\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.deltas\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^roi\.box_heads\.(\d)\.fc\.(\d)\.", lambda m: f"roi_heads.box_head.{m[1]}.fc{int(m[2]) + 1}."),
    (r"^roi\.box_heads\.(\d)\.convs\.(\d)\.conv\.", lambda m: f"roi_heads.box_head.{m[1]}.conv{int(m[2]) + 1}."),
    (r"^roi\.box_heads\.(\d)\.convs\.(\d)\.norm\.", lambda m: f"roi_heads.box_head.{m[1]}.conv{int(m[2]) + 1}.norm."),
    (r"^roi\.box_heads\.(\d)\.classify\.", r"roi_heads.box_predictor.\1.cls_score."),
    (r"^roi\.box_heads\.(\d)\.regress\.", r"roi_heads.box_predictor.\1.bbox_pred."),
    (r"^roi\.mask_heads\.0\.convs\.(\d)\.conv\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
    (r"^roi\.mask_heads\.0\.convs\.(\d)\.norm\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.norm."),
    (r"^roi\.mask_heads\.0\.upsample\.", "roi_heads.mask_head.deconv."),
    (r"^roi\.mask_heads\.0\.logits\.", "roi_heads.mask_head.predictor."),
)
_PADDLE = (
    (r"^backbone\.conv1\.", "backbone.conv1.conv1.conv."),
    (r"^backbone\.bn1\.", "backbone.conv1.conv1.norm."),
    (
        r"^backbone\.layer(\d)\.(\d+)\.",
        lambda m: f"backbone.res{int(m[1]) + 1}.res{int(m[1]) + 1}{'abcdef'[int(m[2])]}.",
    ),
    (r"\.downsample\.0\.", ".short.conv."),
    (r"\.downsample\.1\.", ".short.norm."),
    (r"(res\d[a-f])\.conv(\d)\.", lambda m: f"{m[1]}.branch2{'_abc'[int(m[2])]}.conv."),
    (r"(res\d[a-f])\.bn(\d)\.", lambda m: f"{m[1]}.branch2{'_abc'[int(m[2])]}.norm."),
    (r"^(backbone.*\.)running_mean$", r"\1_mean"),
    (r"^(backbone.*\.)running_var$", r"\1_variance"),
    (r"^neck\.lateral\.", "neck.lateral_convs."),
    (r"^neck\.output\.", "neck.fpn_convs."),
    (r"^rpn\.conv\.", "rpn_head.rpn_feat.rpn_conv."),
    (r"^rpn\.objectness\.", "rpn_head.rpn_rois_score."),
    (r"^rpn\.deltas\.", "rpn_head.rpn_rois_delta."),
    (r"^roi\.box_heads\.(\d)\.fc\.(\d)\.", lambda m: f"bbox_head.head.{m[1]}.fc{int(m[2]) + 6}."),
    (r"^roi\.box_heads\.(\d)\.classify\.", r"bbox_head.bbox_score_stage\1."),
    (r"^roi\.box_heads\.(\d)\.regress\.", r"bbox_head.bbox_delta_stage\1."),
    (r"^roi\.mask_flows\.(\d)\.", lambda m: f"bbox_head.mask_head.head.{int(m[1]) + 1}.conv_res."),
    (r"^roi\.mask_heads\.(\d)\.logits\.", r"bbox_head.mask_head.head.\1.conv_logits."),
    (r"^roi\.mask_heads\.(\d)\.", r"bbox_head.mask_head.head.\1."),
    (r"^semantic\.lateral\.", "fused_semantic_head.lateral_convs."),
    (r"^semantic\.convs\.", "fused_semantic_head.convs."),
    (r"^semantic\.logits\.", "fused_semantic_head.conv_logits."),
    (r"^semantic\.embedding\.conv\.", "fused_semantic_head.conv_embedding."),
)


def tiny(stages: int, *, semantic: bool = False) -> Config:
    """ResNet-50 with the smallest heads; without `semantic` as detectron2 has it, parallel and without flow."""
    plain: dict[str, Any] = (
        {}
        if semantic
        else {"interleaved": False, "mask_flow": False, "semantic_fusion": "none", "class_agnostic_boxes": stages > 1}
    )
    stds = tuple((1 / w, 1 / w, 2 / w, 2 / w) for w in (10, 20, 30))[:stages]
    cascade = Cascade(
        num_stages=stages,
        box_channels=8,
        mask_channels=8,
        mask_convs=2,
        delta_stds=stds,
        ious=(0.5, 0.6, 0.7)[:stages],
        loss_weights=(1.0,) * stages,
        **plain,
    )
    branch = Semantic(classes=5, channels=8, convs=1) if semantic else None
    return Config(
        classes=("a", "b", "c"),
        category_ids=(1, 2, 3),
        backbone=ResNet(),
        neck=FPN(channels=8),
        cascade=cascade,
        semantic=branch,
    )


def renamed(state: dict[str, Tensor], rules: Any) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        theirs = name
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        if not name.endswith("num_batches_tracked"):
            result[theirs] = channels_first(tensor) if name.endswith("fc.0.weight") else tensor
    return result


def channels_first(weight: Tensor) -> Tensor:
    """Columns from (7, 7, C) to (C, 7, 7)."""
    return weight.view(len(weight), 7, 7, -1).permute(0, 3, 1, 2).flatten(1)


def as_detectron2(state: dict[str, Tensor], stages: int) -> dict[str, Tensor]:
    """One mask head; BGR stem; no stage in the names of a single one."""
    own = {name: tensor for name, tensor in state.items() if not re.match(r"roi\.mask_heads\.[12]", name)}
    theirs = renamed(own | {"backbone.conv1.weight": state["backbone.conv1.weight"].flip(1)}, _DETECTRON2)
    return (
        theirs
        if stages > 1
        else {re.sub(r"^(roi_heads\.box_\w+)\.0\.", r"\1.", name): tensor for name, tensor in theirs.items()}
    )


def arrays(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.mark.parametrize("form", [".pkl", ".pth"])
@pytest.mark.parametrize("stages", [1, 3])
def test_detectron2(tmp_path: Path, form: str, stages: int) -> None:
    state = random_state(tiny(stages))
    theirs = as_detectron2(state, stages)
    path = tmp_path / f"model{form}"
    if form == ".pkl":
        path.write_bytes(pickle.dumps({"model": arrays(theirs), "__author__": "someone"}))
    else:
        torch.save({"model": theirs, "iteration": 7}, path)
    loaded = load_model(path, overrides=STRIDE)
    for name, tensor in loaded.state_dict.items():
        source = re.sub(r"mask_heads\.[12]", "mask_heads.0", name)
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, state[source]), name
    config = loaded.config
    assert config.cascade.delta_stds == tiny(stages).cascade.delta_stds
    assert (config.input.std, config.input.mean[0], config.inference.score_ensemble) == (
        (1.0, 1.0, 1.0),
        123.675,
        "probabilities",
    )
    assert (config.backbone, config.inference.mask_stages) == (
        ResNet(norm="frozen", stride_in="1x1"),
        None if stages == 1 else (1,),
    )
    assert len(loaded.report.filled) >= (
        0 if stages == 1 else 2 * len([name for name in state if name.startswith("roi.mask_heads.0.")])
    )


def saved(path: Path, theirs: dict[str, Tensor]) -> Path:
    torch.save({"model": theirs}, path)
    return path


def test_detectron2_without_a_stride_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays(as_detectron2(random_state(tiny(1)), 1))}))
    with pytest.raises(
        CheckpointError,
        match=r"(?s)set backbone\.stride_in to 1x1.*htc convert .*model\.pkl DIR --backbone\.stride-in 1x1",
    ):
        load_model(path)
    with pytest.raises(
        CheckpointError, match=r"set backbone\.stride_in to 1x1"
    ):  # a preset's default is no statement about the file
        load_model("mask_rcnn_r50_fpn_1x_coco", path, {"neck": {"channels": 8}})
    with pytest.raises(CheckpointError, match=r"input\.std"):
        load_model("mask_rcnn_r50_fpn_1x_coco", path, {**STRIDE, "neck": {"channels": 8}})


def test_a_folder_of_ours_says_the_stride(tmp_path: Path) -> None:
    """Its configuration is that of a model, not a mere default."""
    path = saved(tmp_path / "model.pth", as_detectron2(random_state(tiny(1)), 1))
    first = load_model(path, overrides=STRIDE)
    folder = save_pretrained(first.state_dict, first.config, tmp_path / "native")
    assert load_model(folder, path).config.backbone == first.config.backbone


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (
            {"proposal_generator.anchor_generator.cell_anchors.0": torch.tensor([[-9.0, -9, 9, 9]] * 3)},
            "its anchors are not",
        ),
        ({"pixel_mean": torch.tensor([120.0])}, "pixel_mean is"),
        ({"pixel_mean": torch.tensor([1.0, 2.0, float("nan")])}, "pixel_mean is"),
        ({"roi_heads.mask_head.new.weight": torch.zeros(2, 2)}, "unexpected: roi_heads.mask_head.new.weight"),
        ({"roi_heads.box_head.new.weight": torch.zeros(2, 2)}, "unexpected: roi_heads.box_head.new.weight"),
        (
            {"backbone.fpn_lateral2.norm.weight": torch.ones(8), "backbone.fpn_lateral2.norm.bias": torch.ones(8)},
            "fpn_lateral2.norm.weight is GroupNorm with 32",
        ),
    ],
)
def test_other_detectron2_models_are_refused(tmp_path: Path, extra: dict[str, Tensor], says: str) -> None:
    path = saved(tmp_path / "model.pth", as_detectron2(random_state(tiny(1)), 1) | extra)
    with pytest.raises(CheckpointError, match=says):
        load_model(path, overrides=STRIDE)


def test_a_backbone_of_group_norms_is_refused(tmp_path: Path) -> None:
    theirs = as_detectron2(random_state(tiny(1)), 1)
    plain = {name: tensor for name, tensor in theirs.items() if not name.endswith(("running_mean", "running_var"))}
    with pytest.raises(
        CheckpointError, match=r"its backbone has GroupNorm \(backbone\.bottom_up\.stem\.conv1\.norm\.weight"
    ):
        load_model(saved(tmp_path / "model.pth", plain), overrides=STRIDE)


def rich(kind: Any, channels: int, stages: int) -> Config:
    """Norms in the neck and all heads, convolutions in the box heads, two before the proposals, deformable stages."""
    base = tiny(stages)
    cascade = base.cascade.replace(box_norm=kind, mask_norm=kind, box_convs=2, box_fcs=1, mask_channels=channels)
    backbone = ResNet(deformable="v2", deformable_stages=(3, 4, 5))
    return base.replace(cascade=cascade, neck=FPN(channels=channels, norm=kind), rpn=RPN(convs=2), backbone=backbone)


@pytest.mark.parametrize(("kind", "channels", "stages"), [("group", 128, 1), ("batch", 8, 3)])
def test_more_of_the_model_zoo(tmp_path: Path, kind: str, channels: int, stages: int) -> None:
    config = rich(kind, channels, stages)
    state = random_state(config)
    theirs = {
        re.sub(r"^(proposal_generator\.rpn_head\.conv)\.(weight|bias)$", r"\1.conv0.\2", name): t
        for name, t in as_detectron2(state, stages).items()
    }
    expected = {
        *(
            "backbone.bottom_up.res3.0.conv2_offset.weight",
            "backbone.fpn_lateral2.norm.weight",
            "backbone.fpn_output5.norm.bias",
        ),
        *(
            "roi_heads.mask_head.mask_fcn2.norm.weight",
            f"roi_heads.box_head.{'1.' if stages > 1 else ''}conv2.norm.weight",
        ),
        *("proposal_generator.rpn_head.conv.conv0.weight", "proposal_generator.rpn_head.conv.conv1.weight"),
    }
    assert expected <= theirs.keys()
    loaded = load_model(saved(tmp_path / "model.pth", theirs), overrides=STRIDE)
    for name, tensor in loaded.state_dict.items():
        source = re.sub(r"mask_heads\.[12]", "mask_heads.0", name)
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, state[source]), name
    assert isinstance(loaded.config.backbone, ResNet)
    assert (loaded.config.backbone.deformable, loaded.config.backbone.deformable_stages) == ("v2", (3, 4, 5))
    assert (loaded.config.neck.norm, loaded.config.cascade.mask_norm, loaded.config.cascade.box_convs) == (
        kind,
        kind,
        2,
    )


@pytest.mark.parametrize("stages", [1, 3])
def test_one_mask_of_all_classes_becomes_one_each(tmp_path: Path, stages: int) -> None:
    theirs = as_detectron2(random_state(tiny(stages)), stages)
    for leaf in ("weight", "bias"):
        theirs[f"roi_heads.mask_head.predictor.{leaf}"] = theirs[f"roi_heads.mask_head.predictor.{leaf}"][:1]
    loaded = load_model(saved(tmp_path / "model.pth", theirs), overrides=STRIDE)
    for stage in range(stages):
        for leaf in ("weight", "bias"):
            rows = loaded.state_dict[f"roi.mask_heads.{stage}.logits.{leaf}"]
            assert len(rows) == 3
            assert all(torch.equal(row, theirs[f"roi_heads.mask_head.predictor.{leaf}"][0]) for row in rows)
    assert any("repeated for each of 3" in line for line in loaded.report.lines())


class Named:
    """A tensor as Paddle pickles it: a call of tuple with its own name and its values."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (("linear_0.w_0", self.array),)


def as_paddle(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    theirs = {}
    for name, array in arrays(renamed(state, _PADDLE)).items():
        linear = name.startswith("bbox_head.") and "mask_head" not in name and array.ndim == 2
        theirs[name] = array.T.copy() if linear else array
    return theirs


def as_they_are(array: np.ndarray) -> Any:
    return array


def in_a_tuple(array: np.ndarray) -> Any:
    return "linear_0.w_0", array


@pytest.mark.parametrize("form", [as_they_are, in_a_tuple, Named])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_paddle(tmp_path: Path, protocol: int, form: Any) -> None:
    state = random_state(tiny(3, semantic=True))
    theirs = {name: form(array) for name, array in as_paddle(state).items()}
    path = tmp_path / "htc.pdparams"
    path.write_bytes(
        pickle.dumps(theirs | {"StructuredToParameterName@@": dict.fromkeys(theirs, "linear_0.w_0")}, protocol)
    )
    loaded = load_model(path)
    for name, tensor in loaded.state_dict.items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, state[name]), name
    assert loaded.config.cascade.delta_stds[2] == (1 / 30, 1 / 30, 1 / 15, 1 / 15)
    assert loaded.config.cascade.mask_flow
    assert loaded.config.semantic is not None


def test_mask_rows_beyond_the_classes_are_dropped(tmp_path: Path) -> None:
    """The reproduction's mask heads have 80 rows for any number of classes."""
    state = random_state(tiny(3, semantic=True))
    wide = {
        name: torch.cat([tensor, torch.full((77, *tensor.shape[1:]), 9.0)])
        if re.match(r"roi\.mask_heads\.\d\.logits", name)
        else tensor
        for name, tensor in state.items()
    }
    path = tmp_path / "htc.pdparams"
    path.write_bytes(pickle.dumps(as_paddle(wide)))
    loaded = load_model(path)
    for name in (f"roi.mask_heads.{stage}.logits.{leaf}" for stage in range(3) for leaf in ("weight", "bias")):
        assert torch.equal(loaded.state_dict[name], state[name]), name
    assert any("rows beyond its 3 classes" in line for line in loaded.report.lines())
    odd = {
        name: tensor[:9] if re.match(r"roi\.mask_heads\.\d\.logits", name) else tensor for name, tensor in wide.items()
    }
    path.write_bytes(pickle.dumps(as_paddle(odd)))
    with pytest.raises(CheckpointError, match="of another shape"):
        load_model(path)


def test_stride_in_the_first_convolution() -> None:
    """A position of C3 sees what its 1x1 convolution picked: every second pixel of C2, and nothing of those between."""
    torch.manual_seed(0)
    first, second = (build_backbone(ResNet(stride_in=style)).eval() for style in ("1x1", "3x3"))  # type: ignore[arg-type]
    assert first["layer2"][0].conv1.stride == second["layer2"][0].conv2.stride == (2, 2)  # type: ignore[index]
    x = torch.randn(1, 256, 8, 8)
    block = first["layer2"][0]  # type: ignore[index]
    changed = x.clone()
    changed[..., 1::2] += 1
    assert torch.equal(block(x), block(changed))
    assert not torch.equal(second["layer2"][0](x), second["layer2"][0](changed))  # type: ignore[index]

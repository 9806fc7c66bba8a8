"""Files of detectron2 and of the Paddle reproduction, generated with their names, shapes and row order, load as the detector they came from."""

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
from htc.config import FPN, Cascade, Config, ResNet, Semantic
from htc.errors import CheckpointError
from htc.model.backbone import build_backbone

STRIDE = {"backbone": {"stride_in": "1x1"}}
_DETECTRON2 = (
    (r"^backbone\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"^backbone\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    (r"^backbone\.layer(\d)\.(\d+)\.downsample\.0\.", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.shortcut."),
    (r"^backbone\.layer(\d)\.(\d+)\.downsample\.1\.", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.shortcut.norm."),
    (r"^backbone\.layer(\d)\.(\d+)\.bn(\d)\.", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm."),
    (r"^backbone\.layer(\d)\.", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}."),
    (r"^neck\.lateral\.(\d)\.conv\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}."),
    (r"^neck\.output\.(\d)\.conv\.", lambda m: f"backbone.fpn_output{int(m[1]) + 2}."),
    (r"^rpn\.conv\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.objectness\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.deltas\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^roi\.box_heads\.(\d)\.fc\.(\d)\.", lambda m: f"roi_heads.box_head.{m[1]}.fc{int(m[2]) + 1}."),
    (r"^roi\.box_heads\.(\d)\.classify\.", r"roi_heads.box_predictor.\1.cls_score."),
    (r"^roi\.box_heads\.(\d)\.regress\.", r"roi_heads.box_predictor.\1.bbox_pred."),
    (r"^roi\.mask_heads\.0\.convs\.(\d)\.conv\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
    (r"^roi\.mask_heads\.0\.upsample\.", "roi_heads.mask_head.deconv."),
    (r"^roi\.mask_heads\.0\.logits\.", "roi_heads.mask_head.predictor."),
)
_PADDLE = (
    (r"^backbone\.conv1\.", "backbone.conv1.conv1.conv."),
    (r"^backbone\.bn1\.", "backbone.conv1.conv1.norm."),
    (r"^backbone\.layer(\d)\.(\d+)\.", lambda m: f"backbone.res{int(m[1]) + 1}.res{int(m[1]) + 1}{'abcdef'[int(m[2])]}."),
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
    plain: dict[str, Any] = {} if semantic else {"interleaved": False, "mask_flow": False, "semantic_fusion": "none", "class_agnostic_boxes": stages > 1}
    stds = tuple((1 / w, 1 / w, 2 / w, 2 / w) for w in (10, 20, 30))[:stages]
    cascade = Cascade(
        num_stages=stages, box_channels=8, mask_channels=8, mask_convs=2, delta_stds=stds, ious=(0.5, 0.6, 0.7)[:stages], loss_weights=(1.0,) * stages, **plain
    )
    branch = Semantic(classes=5, channels=8, convs=1) if semantic else None
    return Config(classes=("a", "b", "c"), category_ids=(1, 2, 3), backbone=ResNet(), neck=FPN(channels=8), cascade=cascade, semantic=branch)


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
    return theirs if stages > 1 else {re.sub(r"^(roi_heads\.box_\w+)\.0\.", r"\1.", name): tensor for name, tensor in theirs.items()}


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
    assert (config.input.std, config.input.mean[0], config.inference.score_ensemble) == ((1.0, 1.0, 1.0), 123.675, "probabilities")
    assert (config.backbone, config.inference.mask_stages) == (ResNet(norm="frozen", stride_in="1x1"), None if stages == 1 else (1,))
    assert len(loaded.report.filled) >= (0 if stages == 1 else 2 * len([name for name in state if name.startswith("roi.mask_heads.0.")]))


def test_detectron2_without_a_stride_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays(as_detectron2(random_state(tiny(1)), 1))}))
    with pytest.raises(CheckpointError, match=r"set backbone\.stride_in to 1x1"):
        load_model(path)
    with pytest.raises(CheckpointError, match=r"input\.std"):
        load_model("mask_rcnn_r50_fpn_1x_coco", path, {**STRIDE, "neck": {"channels": 8}})
    torch.testing.assert_close(load_model(path, overrides={"backbone": {"stride_in": "3x3"}}).config.input.std, (58.395, 57.12, 57.375))


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"proposal_generator.anchor_generator.cell_anchors.0": torch.tensor([[-9.0, -9, 9, 9]] * 3)}, "its anchors are not"),
        ({"pixel_mean": torch.tensor([123.675, 116.28, 103.53])}, "pixel_mean"),
        ({"roi_heads.mask_head.new.weight": torch.zeros(2, 2)}, "unexpected: roi_heads.mask_head.new.weight"),
    ],
)
def test_other_detectron2_models_are_refused(tmp_path: Path, extra: dict[str, Tensor], says: str) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": as_detectron2(random_state(tiny(1)), 1) | extra}, path)
    with pytest.raises(CheckpointError, match=says):
        load_model(path, overrides=STRIDE)


def test_default_anchors_of_detectron2_are_ours(tmp_path: Path) -> None:
    cells = {f"proposal_generator.anchor_generator.cell_anchors.{level}": _cells(32.0 * 2**level) for level in range(5)}
    path = tmp_path / "model.pth"
    torch.save({"model": as_detectron2(random_state(tiny(1)), 1) | cells | {"pixel_mean": torch.tensor([103.53, 116.28, 123.675])[:, None, None]}}, path)
    assert len(load_model(path, overrides=STRIDE).report.dropped) == 6


def _cells(side: float) -> Tensor:
    """Width and height of area side^2 and ratio h / w, around the origin."""
    sizes = [(side / ratio**0.5, side * ratio**0.5) for ratio in (0.5, 1.0, 2.0)]
    return torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sizes])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_paddle(tmp_path: Path, protocol: int) -> None:
    state = random_state(tiny(3, semantic=True))
    theirs = {}
    for name, array in arrays(renamed(state, _PADDLE)).items():
        linear = name.startswith("bbox_head.") and "mask_head" not in name and array.ndim == 2
        theirs[name] = array.T.copy() if linear else array
    path = tmp_path / "htc.pdparams"
    path.write_bytes(pickle.dumps(theirs | {"StructuredToParameterName@@": dict.fromkeys(theirs, "linear_0.w_0")}, protocol))
    loaded = load_model(path)
    for name, tensor in loaded.state_dict.items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, state[name]), name
    assert loaded.config.cascade.delta_stds[2] == (1 / 30, 1 / 30, 1 / 15, 1 / 15)
    assert loaded.config.cascade.mask_flow
    assert loaded.config.semantic is not None


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"a": Evil()}), "refused: .*print.*Nothing of it was run"),
        (pickle.dumps({"a": np.zeros(300)})[:-40], "damaged"),
        (pickle.dumps({"rpn_head.rpn_rois_score.weight": np.zeros(3, np.float32)}), "only the reproduction of HTC"),
        (pickle.dumps({"a": np.zeros(3, np.complex64)}), "type <c8"),
        (pickle.dumps({"a": np.zeros(3, ">f4")}), "type >f4"),
        (pickle.dumps({"a": 1}), "no arrays by name"),
        (pickle.dumps({"fc.weight": np.zeros((3, 2))}), "no Mask R-CNN"),
        (b"", "damaged"),
    ],
)
def test_hostile_and_foreign_pickles_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, says: str) -> None:
    path = tmp_path / "x.pdparams"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        load_model(path)
    assert not capsys.readouterr().out


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

"""Convert checkpoints of mmdetection 1 (2019), 2 and 3: parameter names and row order."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from htc.checkpoint.facts import Colors
from htc.checkpoint.formats.base import ConvertedWeights, background_last, pixel_major, rgb_stem
from htc.checkpoint.formats.mmdetection_config import read_config_facts, read_config_text
from htc.checkpoint.stored import Stored, entries, read_stored
from htc.checkpoint.structure import GUIDED
from htc.errors import CheckpointError

# (pattern, replacement); the first match applies. Names without a stage index belong to Mask R-CNN's only stage.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.(layer\d\.\d+)\.conv2_offset\.(\w+)$", r"backbone.\1.conv2.conv_offset.\2"),
        (r"^neck\.rfp_modules\.0\.layer2\.0\.rfp_conv\.", "second_look.feedback.0."),
        (r"^neck\.rfp_modules\.0\.layer3\.0\.rfp_conv\.", "second_look.feedback.1."),
        (r"^neck\.rfp_modules\.0\.layer4\.0\.rfp_conv\.", "second_look.feedback.2."),
        (r"^neck\.rfp_modules\.0\.", "second_look.backbone."),
        (r"^neck\.rfp_aspp\.aspp\.0\.", "second_look.context.point."),
        (r"^neck\.rfp_aspp\.aspp\.1\.", "second_look.context.dilated.0."),
        (r"^neck\.rfp_aspp\.aspp\.2\.", "second_look.context.dilated.1."),
        (r"^neck\.rfp_aspp\.aspp\.3\.", "second_look.context.mean."),
        (r"^neck\.rfp_weight\.", "second_look.weight."),
        (r"^neck\.lateral_convs\.(\d+)\.", r"neck.lateral.\1."),
        (r"^neck\.fpn_convs\.(\d+)\.", r"neck.output.\1."),
        (r"^neck\.downsample_convs\.(\d+)\.", r"neck.downsample.\1."),
        (r"^neck\.pafpn_convs\.(\d+)\.", r"neck.bottom_up.\1."),
        (r"^rpn_head\.rpn_conv\.", "rpn.conv."),
        (r"^rpn_head\.rpn_cls\.", "rpn.objectness."),
        (r"^rpn_head\.rpn_reg\.", "rpn.deltas."),
        (r"^rpn_head\.conv_loc\.", "rpn.location."),
        (r"^rpn_head\.conv_shape\.", "rpn.shape."),
        (r"^rpn_head\.feature_adaption\.conv_offset\.", "rpn.adaption.offset."),
        (r"^rpn_head\.feature_adaption\.conv_adaption\.", "rpn.adaption.conv."),
        (r"^rpn_head\.conv_cls\.", "rpn.objectness."),
        (r"^rpn_head\.conv_reg\.", "rpn.deltas."),
        (r"^bbox_head\.(\d+)\.shared_fcs\.(\d+)\.", r"roi.box_heads.\1.fc.\2."),
        (r"^bbox_head\.(\d+)\.fc_cls\.", r"roi.box_heads.\1.classify."),
        (r"^bbox_head\.(\d+)\.fc_reg\.", r"roi.box_heads.\1.regress."),
        (r"^mask_head\.(\d+)\.convs\.(\d+)\.", r"roi.mask_heads.\1.convs.\2."),
        (r"^mask_head\.(\d+)\.upsample\.", r"roi.mask_heads.\1.upsample."),
        (r"^mask_head\.(\d+)\.conv_logits\.", r"roi.mask_heads.\1.logits."),
        (r"^semantic_head\.lateral_convs\.(\d+)\.", r"semantic.lateral.\1."),
        (r"^semantic_head\.convs\.(\d+)\.", r"semantic.convs.\1."),
        (r"^semantic_head\.conv_logits\.", "semantic.logits."),
        (r"^semantic_head\.conv_embedding\.", "semantic.embedding."),
    )
)
_FLOW = re.compile(r"^mask_head\.(\d+)\.conv_res\.")
_WITHOUT_STAGE = re.compile(r"^(bbox_head|mask_head)\.(?!\d)")
# Parameters of switchable and of weight-standardized convolutions (DetectoRS).
_CONVOLUTION = {
    ".weight_gamma": ".standard.gamma",
    ".weight_beta": ".standard.beta",
    ".weight_diff": ".difference",
    ".pre_context.": ".before.",
    ".post_context.": ".after.",
    ".offset_s.": ".offsets.0.",
    ".offset_l.": ".offsets.1.",
}
# A convolution's norm is named by its kind in mmdetection, `norm` here; the backbone keeps mmdetection's names.
_NORM = re.compile(r"\.(bn|gn)\.(?=\w+$)")


def our_name(name: str) -> str:
    """Return our name for a parameter of mmdetection (any version, without `module.`); unknown names are returned
    unchanged.
    """
    plain = _WITHOUT_STAGE.sub(r"\1.0.", name.removeprefix("roi_head."))
    flow = _FLOW.match(plain)
    if flow and int(flow[1]) > 0:
        return _inside(f"roi.mask_flows.{int(flow[1]) - 1}.{plain[flow.end() :]}")
    for pattern, replacement in _RULES:
        if pattern.match(plain):
            return _inside(pattern.sub(replacement, plain))
    return _inside(name) if name.startswith("backbone.") else name


def _inside(name: str) -> str:
    """Rename the last parts of a name whose first parts are already ours."""
    if not name.startswith(("backbone.", "second_look.backbone.")):
        return _NORM.sub(".norm.", name)
    for theirs, ours in _CONVOLUTION.items():
        name = name.replace(theirs, ours)
    return name


def reason_to_drop(name: str) -> str | None:
    """Return the reason why our models do not use a tensor of mmdetection, or None."""
    if name.startswith(("ema_", "ema.")):
        return "EMA of the weights, saved in addition to the weights"
    if name.startswith("data_preprocessor."):
        return "mean and standard deviation of the input, which are configuration"
    if re.match(r"^(roi_head\.)?mask_head\.0\.conv_res\.", name):
        return "never used: the first mask head has no predecessor"
    return None


V1_NOTE = (
    "a file of mmdetection 1 (2019): its boxes were trained with width = x2 - x1 + 1; with today's width = x2 - x1, it "
    "may lose up to 1 AP"
)

GUIDED_NOTE = (
    "guided anchoring of 2020 or later was trained with instance centers as background, so `rpn.location_threshold` "
    "may suppress instances; if it does, set it to 0"
)


def read_mmdetection(path: Path) -> ConvertedWeights:
    """Read a `.pth` of mmdetection without executing anything in it; raises `CheckpointError` as `read_stored` and
    `upgrade_mmdetection` do.
    """
    return upgrade_mmdetection(read_stored(path))


def upgrade_mmdetection(stored: Stored, colors: Colors | None = None) -> ConvertedWeights:
    """Convert a file of mmdetection. `colors`: the channel order of its input, given by the user if the file has no
    configuration text.

    Raises `CheckpointError` for files of another architecture, and if the configuration text in the file shows an
    unsupported model (other backbones, other detectors).
    """
    meta = _meta(stored.content)
    kept = {name: tensor for name, tensor in stored.tensors.items() if reason_to_drop(name) is None}
    upgraded = _upgrade(stored.path, kept, meta, colors)
    upgraded.dropped[:0] = [(stored.names[name], reason) for name in stored.tensors if (reason := reason_to_drop(name))]
    if upgraded.facts.refusals:
        raise CheckpointError(f"{stored.path}: not supported: " + "; ".join(upgraded.facts.refusals))
    return upgraded


def _meta(content: Any) -> Mapping[Any, Any]:
    return entries(entries(content).get("meta"))


def _classes(meta: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """Return the class names: `CLASSES` (mmdetection 1, 2) or `dataset_meta` (3)."""
    dataset = entries(meta.get("dataset_meta"))
    for names in (meta.get("CLASSES"), dataset.get("classes"), dataset.get("CLASSES")):
        if isinstance(names, str):  # `CLASSES = ("cell")`, a forgotten comma
            names = (names,)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple("".join(letter for letter in name if letter.isprintable()) for name in names)
    return None


def _upgrade(path: Path, state: dict[str, Tensor], meta: Mapping[Any, Any], colors: Colors | None) -> ConvertedWeights:
    version = _version(path, state, meta)
    text = next((value for key in ("config", "cfg") if isinstance(value := meta.get(key), str)), "")
    experiment = meta.get("exp_name") or meta.get("experiment_name")
    name = Path(experiment).name.removesuffix(".py") if isinstance(experiment, str) else None
    result = ConvertedWeights(version, {}, _classes(meta), read_config_facts(read_config_text(text)), name)
    for theirs, tensor in state.items():
        ours = our_name(theirs)
        result.put(path, theirs, ours, tensor)
    if version == 1:
        result.notes.append(V1_NOTE)
        _reorder_2019(path, result)
    elif GUIDED in result.weights:
        result.notes.append(GUIDED_NOTE)
    if result.facts.bgr is not None and colors is not None and result.facts.bgr != (colors == "bgr"):
        raise CheckpointError(f"{path}: --colors {colors} contradicts the configuration in the file: remove it")
    if result.facts.bgr or colors == "bgr":
        rgb_stem(result)
    pixel_major(result)
    result.notes.extend(result.facts.notes)
    return result


def _version(path: Path, state: Mapping[str, Any], meta: Mapping[Any, Any]) -> int:
    if any(name.startswith("roi_head.") for name in state):
        return 3 if "mmengine_version" in meta or "dataset_meta" in meta or "cfg" in meta else 2
    if any(name.startswith(("bbox_head.", "mask_head.")) for name in state):
        return 1
    tops = sorted({name.split(".")[0] for name in state})
    hint = "; it looks like a classification backbone" if "fc" in tops and "layer1" in tops else ""
    raise CheckpointError(
        f"{path}: not a Mask R-CNN, Cascade Mask R-CNN or HTC of mmdetection: it has {', '.join(tops[:8])} and no "
        f"roi_head{hint}"
    )


def _reorder_2019(path: Path, result: ConvertedWeights) -> None:
    """Move the background from first to last: mmdetection 1 has it first in the class rows; masks and class-specific
    boxes have an unused first class, which is dropped.
    """
    stages = sorted(
        name.removesuffix("classify.weight") for name in result.weights if name.endswith(".classify.weight")
    )
    for stage in stages:
        rows = result.weights[f"{stage}classify.weight"].shape[0]
        masks = stage.replace("box_heads", "mask_heads")
        for leaf in ("weight", "bias"):
            result.change(f"{stage}classify.{leaf}", "background row moved from first to last", background_last)
            deltas = result.weights.get(f"{stage}regress.{leaf}")
            if deltas is not None and deltas.shape[0] == 4 * rows and rows > 1:
                result.change(
                    f"{stage}regress.{leaf}", "the background's four unused rows dropped", lambda tensor: tensor[4:]
                )
            logits = result.weights.get(f"{masks}logits.{leaf}")
            if logits is None:
                continue
            if logits.shape[0] != rows:
                raise CheckpointError(
                    f"{path}: not supported: a file of mmdetection 1 (2019) should have {rows} mask rows (classes and "
                    f"background), but this one has {logits.shape[0]}"
                )
            result.change(
                f"{masks}logits.{leaf}", "the background's unused first row dropped", lambda tensor: tensor[1:]
            )

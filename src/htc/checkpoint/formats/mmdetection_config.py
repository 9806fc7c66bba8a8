"""Translate the configuration text in a checkpoint of mmdetection to our fields.

The text is Python: `read_config_text` reads its assignments as literals and never executes it. `read_config_facts`
translates them to dotted fields of our configuration, and lists reasons why a model is not supported.
"""

import ast
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from htc.model.variants.recursive_pyramid import RATES

_LONGEST = 1_000_000
_LARGEST = 1e15  # far above any setting; without a bound, repeated squaring would fill the memory


class _Unknown:
    """Placeholder for an expression that is not a literal."""


UNKNOWN = _Unknown()
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def read_config_text(text: str) -> dict[str, Any]:
    """Read the assignments of a configuration file as plain values.

    Supports constants, tuples, lists, dicts, `dict(...)`, arithmetic on numbers and names assigned before; everything
    else (imports, calls, comprehensions) is skipped, not executed. Text that is not Python gives an empty result.
    """
    if len(text) > _LONGEST:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\\d" in somebody's Windows paths
            statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    names: dict[str, Any] = {}
    for statement in statements:
        if (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(statement.targets[0], ast.Name)
        ):
            try:
                value = _value(statement.value, names)
            except (RecursionError, ArithmeticError):
                continue
            if value is not UNKNOWN:
                names[statement.targets[0].id] = value
    return names


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return _sensible(value)
        case ast.Name(id=name):
            return names.get(name, UNKNOWN)
        case ast.List(elts=parts):
            return [_value(part, names) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_value(part, names) for part in parts)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, names)
            return -value if isinstance(value, int | float) else UNKNOWN
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, names), _value(right, names)
            known = isinstance(a, int | float) and isinstance(b, int | float) and type(op) in _ARITHMETIC
            return _sensible(_ARITHMETIC[type(op)](a, b)) if known else UNKNOWN
        case ast.Dict(keys=keys, values=values):
            pairs = [
                (None if key is None else _value(key, names), _value(value, names))
                for key, value in zip(keys, values, strict=True)
            ]
            return _dict(pairs)
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return _dict([(keyword.arg, _value(keyword.value, names)) for keyword in keywords])
    return UNKNOWN


def _sensible(value: Any) -> Any:
    return (
        UNKNOWN if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _LARGEST) else value
    )


def _dict(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Return the entries with literal string keys and known values; a key of None is `**other`."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key is None and isinstance(value, dict):
            result.update(value)
        elif isinstance(key, str) and value is not UNKNOWN:
            result[key] = value
    return result


def at(tree: Any, *path: str | int) -> Any:
    """Return the value at a path of keys and indices, or None if there is none."""
    for step in path:
        if isinstance(step, str) and isinstance(tree, Mapping):
            tree = tree.get(step)
        elif isinstance(step, int) and isinstance(tree, list | tuple) and -len(tree) <= step < len(tree):
            tree = tree[step]
        else:
            return None
    return None if tree is UNKNOWN else tree


_FAMILY = ("HybridTaskCascade", "CascadeRCNN", "MaskRCNN", "TwoStageDetector")


@dataclass
class ConfigFacts:
    """Facts in a configuration text.

    `fields`: dotted configuration field -> value. `refusals`: reasons why the model is not supported. `notes`: settings
    that are ignored. `bgr`: whether its input is in the order blue, green, red; None if unknown. The fields are always
    in the order red, green, blue.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bgr: bool | None = None

    def put(self, name: str, value: Any, *kinds: type) -> None:
        """Set a field if the text has a value of the right type."""
        if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
            self.fields[name] = value

    def put_numbers(self, name: str, value: Any) -> None:
        """Set a field to a tuple of numbers if the text has one."""
        numbers = _numbers(value)
        if numbers:
            self.fields[name] = numbers


def read_config_facts(text: dict[str, Any]) -> ConfigFacts:
    """Translate the assignments of a configuration of mmdetection 1, 2 or 3 (from `read_config_text`)."""
    facts = ConfigFacts()
    model = at(text, "model")
    if not isinstance(model, dict):
        return facts
    kind = _kind(model)
    if kind is not None and kind not in _FAMILY:
        facts.refusals.append(f"the model is a {kind}; Mask R-CNN, Cascade Mask R-CNN and HTC are supported")
    _trunk(model, facts)
    _anchors(model, facts)
    # In mmdetection 1 (2019), the heads and the switches are fields of the model itself.
    _cascade(at(model, "roi_head") or model, facts)
    _training(at(model, "train_cfg") or at(text, "train_cfg"), facts)
    _test(at(model, "test_cfg") or at(text, "test_cfg"), facts)
    _input(text, facts)
    return facts


def _trunk(model: dict[str, Any], facts: ConfigFacts) -> None:
    backbone = at(model, "backbone")
    kind = _kind(backbone)
    if kind is not None and kind.removeprefix("DetectoRS_") not in ("ResNet", "ResNeXt"):
        facts.refusals.append(f"the backbone is a {kind}; ResNet and ResNeXt are supported")
    if at(backbone, "style") == "caffe":
        facts.fields["backbone.stride_in"] = "1x1"
    groups = at(backbone, "dcn", "deform_groups") or at(backbone, "dcn", "deformable_groups") or 1
    if groups != 1:
        facts.refusals.append(f"deformable convolution with {groups} offset groups; only one is supported")
    for name in ("gcb", "gen_attention", "plugins"):
        if at(backbone, name):
            facts.refusals.append(f"the backbone has {name}, which is not supported")
    facts.put("backbone.frozen_stages", at(backbone, "frozen_stages"), int)
    if at(backbone, "norm_cfg", "requires_grad") is False:
        facts.fields["backbone.norm"] = "frozen"
    convolution = _kind(at(backbone, "conv_cfg"))
    if convolution not in (None, "Conv2d", "Conv", "ConvAWS"):
        facts.refusals.append(f"the backbone's convolutions are {convolution}; plain and ConvAWS are supported")
    _neck(at(model, "neck"), facts)


def _neck(neck: Any, facts: ConfigFacts) -> None:
    kind = _kind(neck)
    if kind is not None and kind not in ("FPN", "PAFPN", "RFP"):
        facts.refusals.append(f"the neck is a {kind}; FPN, PAFPN and RFP are supported")
    steps, rates = at(neck, "rfp_steps"), _numbers(at(neck, "aspp_dilations"))
    if steps not in (None, 2):
        facts.refusals.append(f"the recursive feature pyramid has {steps} steps; 2 is supported")
    if rates and rates != (1.0, *RATES, 1.0):
        facts.refusals.append(f"the recursive feature pyramid has dilations {rates}; (1, 3, 6, 1) is supported")


def _anchors(model: dict[str, Any], facts: ConfigFacts) -> None:
    head = at(model, "rpn_head")
    if _kind(head) == "GARPNHead":
        _guided_anchors(head, facts)
        return
    generator = at(head, "anchor_generator")
    scales = _numbers(at(generator, "scales") or at(head, "anchor_scales"))
    if len(scales) > 1:
        facts.refusals.append(f"the RPN has {len(scales)} anchor scales; one is supported")
    elif scales:
        facts.fields["rpn.anchor_scale"] = scales[0]
    facts.put_numbers("rpn.anchor_ratios", at(generator, "ratios") or at(head, "anchor_ratios"))
    strides = _numbers(at(generator, "strides") or at(head, "anchor_strides"))
    if strides and strides != (4.0, 8.0, 16.0, 32.0, 64.0):
        facts.refusals.append(f"anchor strides {strides}; 4, 8, 16, 32, 64 are supported")
    _box_loss("rpn", at(head, "loss_bbox"), facts)


def _guided_anchors(head: Any, facts: ConfigFacts) -> None:
    approximate = at(head, "approx_anchor_generator")
    facts.put("rpn.anchor_scale", at(approximate, "octave_base_scale") or at(head, "octave_base_scale"), int, float)
    facts.put("rpn.scales_per_octave", at(approximate, "scales_per_octave") or at(head, "scales_per_octave"), int)
    facts.put_numbers("rpn.anchor_ratios", at(approximate, "ratios") or at(head, "octave_ratios"))
    facts.put_numbers("rpn.anchor_stds", at(head, "anchor_coder", "target_stds") or at(head, "anchoring_stds"))
    facts.put_numbers("rpn.delta_stds", at(head, "bbox_coder", "target_stds") or at(head, "target_stds"))
    facts.put("rpn.location_threshold", at(head, "loc_filter_thr"), float)
    _box_loss("rpn", at(head, "loss_bbox"), facts)


def _box_loss(part: str, loss: Any, facts: ConfigFacts) -> None:
    kind = {"SmoothL1Loss": "smooth_l1", "L1Loss": "l1"}.get(_kind(loss) or "")
    if kind:
        facts.fields[f"{part}.box_loss"] = kind
    if part == "rpn":
        facts.put("rpn.box_loss_beta", at(loss, "beta"), float)


def _cascade(roi: Any, facts: ConfigFacts) -> None:
    heads = at(roi, "bbox_head")
    stages = [head for head in (heads if isinstance(heads, list | tuple) else [heads]) if isinstance(head, dict)]
    facts.put("cascade.interleaved", at(roi, "interleaved"), bool)
    facts.put("cascade.mask_flow", at(roi, "mask_info_flow"), bool)
    fusion = at(roi, "semantic_fusion")
    if isinstance(fusion, list | tuple):
        has = {"box" if part == "bbox" else part for part in fusion if isinstance(part, str)}
        facts.fields["cascade.semantic_fusion"] = (
            "both" if has >= {"box", "mask"} else "box" if "box" in has else "mask" if "mask" in has else "none"
        )
    stds = tuple(_numbers(at(stage, "bbox_coder", "target_stds") or at(stage, "target_stds")) for stage in stages)
    if stds and all(len(std) == 4 for std in stds):
        facts.fields["cascade.delta_stds"] = stds
    if stages:
        facts.put("cascade.class_agnostic_boxes", at(stages[0], "reg_class_agnostic"), bool)
    if len(stages) > 1:
        facts.put_numbers("cascade.loss_weights", at(roi, "stage_loss_weights"))
    _box_loss("cascade", at(stages[0], "loss_bbox") if stages else None, facts)
    semantic = at(roi, "semantic_head")
    weight = at(semantic, "loss_seg", "loss_weight")
    facts.put("semantic.loss_weight", at(semantic, "loss_weight") if weight is None else weight, int, float)
    ignore = at(semantic, "loss_seg", "ignore_index")
    facts.put("semantic.ignore", at(semantic, "ignore_label") if ignore is None else ignore, int)


def _training(train: Any, facts: ConfigFacts) -> None:
    stages = at(train, "rcnn")
    assigners = [at(stage, "assigner") for stage in (stages if isinstance(stages, list | tuple) else [stages])]
    ious = tuple(at(assigner, "pos_iou_thr") for assigner in assigners)
    if ious and all(isinstance(iou, float) for iou in ious):
        facts.fields["cascade.ious"] = ious
    facts.put("cascade.low_quality_matches", at(assigners[0], "match_low_quality") if assigners else None, bool)


def _test(test: Any, facts: ConfigFacts) -> None:
    proposals, boxes = at(test, "rpn"), at(test, "rcnn")
    facts.put("rpn.candidates_per_level", at(proposals, "nms_pre"), int)
    facts.put("rpn.proposals", at(proposals, "max_per_img") or at(proposals, "max_num"), int)
    facts.put("rpn.nms_iou", at(proposals, "nms", "iou_threshold") or at(proposals, "nms_thr"), float)
    facts.put("inference.score_threshold", at(boxes, "score_thr"), int, float)
    facts.put("inference.max_detections", at(boxes, "max_per_img"), int)
    facts.put("inference.mask_threshold", at(boxes, "mask_thr_binary"), float)
    nms = at(boxes, "nms")
    if soft := _soft_nms(nms):
        facts.fields["inference.soft_nms"] = soft
    elif _kind(nms) not in (None, "nms"):
        facts.notes.append(
            f"the file's configuration uses {_kind(nms)}; plain NMS at {facts.fields.get('inference.nms_iou', 0.5)} "
            f"is used instead"
        )
    else:
        facts.put("inference.nms_iou", at(nms, "iou_threshold") or at(nms, "iou_thr"), float)


def _soft_nms(nms: Any) -> dict[str, Any] | None:
    """Translate Soft-NMS to our fields; None for any other kind."""
    method = at(nms, "method") or "linear"
    if _kind(nms) != "soft_nms" or method not in ("linear", "gaussian"):
        return None
    threshold = at(nms, "iou_threshold") if at(nms, "iou_thr") is None else at(nms, "iou_thr")
    strength = {"iou": threshold} if method == "linear" else {"sigma": at(nms, "sigma")}
    given = {**strength, "min_score": at(nms, "min_score")}
    return {"kind": method, **{name: value for name, value in given.items() if isinstance(value, int | float)}}


def _input(text: dict[str, Any], facts: ConfigFacts) -> None:
    steps = list(_steps(at(text, "test_pipeline") or at(text, "data", "test", "pipeline")))
    normalize = next((step for step in steps if _kind(step) == "Normalize"), None)
    source = at(text, "model", "data_preprocessor") or normalize or at(text, "img_norm_cfg")
    turned = at(source, "to_rgb") if at(source, "bgr_to_rgb") is None else at(source, "bgr_to_rgb")
    facts.bgr = not turned if isinstance(turned, bool) else None
    for name in ("mean", "std"):
        numbers = _numbers(at(source, name))
        if len(numbers) == 3:
            facts.fields[f"input.{name}"] = numbers[::-1] if facts.bgr else numbers
    sizes = [
        at(step, name)
        for step in steps
        for name in ("img_scale", "scale")
        if _kind(step) in ("MultiScaleFlipAug", "Resize")
    ]
    edges = next((numbers for numbers in map(_numbers, sizes) if len(numbers) == 2), None)
    if edges and all(edge == int(edge) for edge in edges):
        facts.fields["input.short_edge"], facts.fields["input.long_edge"] = int(min(edges)), int(max(edges))


def _kind(part: Any) -> str | None:
    """Return the `type` of a part, without the scope that version 3 may add (`mmdet.ResNet`)."""
    kind = at(part, "type")
    return kind.split(".")[-1] if isinstance(kind, str) else None


def _steps(pipeline: Any) -> Iterator[Any]:
    """Yield the steps of a pipeline and those inside a step such as MultiScaleFlipAug (one level, which is enough)."""
    for step in pipeline if isinstance(pipeline, list | tuple) else ():
        yield step
        inner = at(step, "transforms")
        yield from inner if isinstance(inner, list | tuple) else ()


def _numbers(value: Any) -> tuple[float, ...]:
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    ):
        return tuple(float(number) for number in value)
    return ()

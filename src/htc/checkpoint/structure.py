"""Derive the architecture from the names and shapes of a state dict (ours), as dotted configuration fields."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from htc.config import Config
from htc.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

BLOCKS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
_DEFORMABLE = {18: "v1", 27: "v2"}
_ESSENTIAL = (
    "neck.lateral.0.conv.weight",
    "rpn.objectness.weight",
    "roi.box_heads.0.classify.weight",
)
MASKS = "roi.mask_heads.0.logits.weight"
"""Tensor that only models with mask heads have."""
_RESNET = ("backbone.layer1.0.conv2.weight", "backbone.layer4.0.conv1.weight")
_SIZED = (*_ESSENTIAL, MASKS, *_RESNET, "semantic.logits.weight")
_OTHER_BACKBONES = ("backbone.body.", "backbone.stem.")
"""Prefixes of timm's networks and FishNet: their tensors are compared one by one, since no configuration can be
derived from them.
"""
GUIDED = "rpn.location.weight"
"""Tensor that only guided anchoring has."""
_SWITCH = re.compile(r"backbone\.layer(\d)\.\d+\.conv\d\.switch\.weight")
_SWITCH_OFFSETS = re.compile(r"backbone\.layer\d\.\d+\.conv\d\.offsets\.0\.weight")
_OFFSETS = re.compile(r"backbone\.layer([1-4])\.\d+\.conv2\.conv_offset\.weight")


def read_structure(shapes: Shapes) -> dict[str, Any]:
    """Map every configuration field (dotted) that the weights determine to its value, with `num_classes` and `semantic`
    (bool) added.

    Raises `CheckpointError` (without a file name) if the weights are not of this family of models.
    """
    other = any(name.startswith(_OTHER_BACKBONES) for name in shapes)
    missing = [name for name in ((() if other else _RESNET) + _ESSENTIAL) if name not in shapes]
    if missing:
        raise CheckpointError(
            f"not a ResNet-FPN network with box heads (Mask R-CNN, Cascade Mask R-CNN, HTC): missing "
            f"{', '.join(missing)}"
        )
    wrong = [
        name
        for name, shape in shapes.items()
        if 0 in shape or (name in _SIZED and len(shape) < 2) or (name.endswith(".weight") and not shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{wrong[0]} has the shape {shapes[wrong[0]]}, which is invalid for a layer; the file is damaged or of "
            f"another architecture"
        )
    return {**({} if other else _backbone(shapes)), **_neck(shapes), **_heads(shapes), **_semantic(shapes)}


def _indices(shapes: Shapes, pattern: str) -> list[int]:
    return sorted({int(match[1]) for name in shapes if (match := re.match(pattern, name))})


def _backbone(shapes: Shapes) -> dict[str, Any]:
    blocks = tuple(len(_indices(shapes, rf"backbone\.layer{layer}\.(\d+)\.")) for layer in (1, 2, 3, 4))
    bottleneck = "backbone.layer1.0.conv3.weight" in shapes
    if (bottleneck, blocks) not in BLOCKS:
        raise CheckpointError(
            f"its backbone has {blocks} blocks, which is not a ResNet or ResNeXt with 18, 34, 50, 101 or 152 layers"
        )
    width, group_width = shapes["backbone.layer1.0.conv2.weight"][:2]
    groups = max(1, width // group_width)
    base_width = (group_width if groups > 1 else width) if bottleneck else 64
    fields: dict[str, Any] = {
        "backbone.kind": "resnet",
        "backbone.depth": BLOCKS[bottleneck, blocks],
        "backbone.groups": groups,
        "backbone.base_width": base_width,
    }
    offsets = {int(match[1]) + 1: shape[0] for name, shape in shapes.items() if (match := _OFFSETS.fullmatch(name))}
    kinds = {_DEFORMABLE.get(channels, f"{channels} offset channels") for channels in offsets.values()}
    if len(kinds) > 1 or kinds - {"v1", "v2"}:
        raise CheckpointError(
            f"its deformable convolutions have {', '.join(sorted(kinds))}: only v1 or v2 with one offset group is "
            f"supported"
        )
    deformable = {
        "backbone.deformable": kinds.pop() if kinds else "none",
        "backbone.deformable_stages": tuple(sorted(offsets)),
    }
    return {**fields, **deformable, **_switchable(shapes)}


def _switchable(shapes: Shapes) -> dict[str, Any]:
    switches = {int(match[1]) + 1 for name in shapes if (match := _SWITCH.fullmatch(name))}
    kind = (
        "none" if not switches else "deformable" if any(_SWITCH_OFFSETS.fullmatch(name) for name in shapes) else "plain"
    )
    standardized = "backbone.layer1.0.conv1.standard.gamma" in shapes
    return {
        "backbone.switchable": kind,
        "backbone.switchable_stages": tuple(sorted(switches)),
        "backbone.standardized": standardized,
    }


def _norm(shapes: Shapes, layer: str) -> str:
    """Return the kind of a norm; synchronized BatchNorm has the same tensors as plain BatchNorm."""
    if f"{layer}.weight" not in shapes:
        return "none"
    return "batch" if f"{layer}.running_mean" in shapes else "group"


def _neck(shapes: Shapes) -> dict[str, Any]:
    kind = (
        "pafpn"
        if any(name.startswith("neck.bottom_up.") for name in shapes)
        else "rfp"
        if "second_look.weight.weight" in shapes
        else "fpn"
    )
    return {
        "neck.kind": kind,
        "neck.norm": _norm(shapes, "neck.lateral.0.norm"),
        "neck.channels": shapes["neck.lateral.0.conv.weight"][0],
        **(
            {"rpn.kind": "guided_rpn"}
            if GUIDED in shapes
            else {
                "rpn.kind": "rpn",
                "rpn.anchors": shapes["rpn.objectness.weight"][0],
                "rpn.convs": 1 + len(_indices(shapes, r"rpn\.further\.(\d+)\.")),
            }
        ),
    }


def _heads(shapes: Shapes) -> dict[str, Any]:
    classes = shapes["roi.box_heads.0.classify.weight"][0] - 1
    levels = any(
        f"roi.box_heads.0.{first}" in shapes for first in ("fc.0.layers.0.weight", "convs.0.layers.0.conv.weight")
    )
    fields: dict[str, Any] = {
        "num_classes": classes,
        "cascade.num_stages": len(_indices(shapes, r"roi\.box_heads\.(\d+)\.")),
        "cascade.mask_flow": any(name.startswith("roi.mask_flows.") for name in shapes),
        "cascade.box_convs": len(_indices(shapes, r"roi\.box_heads\.0\.convs\.(\d+)\.")),
        "cascade.box_fcs": len(_indices(shapes, r"roi\.box_heads\.0\.fc\.(\d+)\.")),
        "cascade.box_norm": _norm(
            shapes, "roi.box_heads.0.convs.0.layers.0.norm" if levels else "roi.box_heads.0.convs.0.norm"
        ),
        "cascade.box_channels": shapes["roi.box_heads.0.classify.weight"][1],
        "cascade.pooled_levels": "all" if levels else "one",
        **_mask_head(shapes, levels=levels),
    }
    deltas = shapes.get("roi.box_heads.0.regress.weight", (0,))[0]
    if classes > 1:  # with one class, 4 values are both agnostic and specific
        fields["cascade.class_agnostic_boxes"] = deltas == 4
    return fields


def _mask_head(shapes: Shapes, *, levels: bool) -> dict[str, Any]:
    """Derive the sizes and the variant of the mask heads; each variant has a layer that the others do not have."""
    if MASKS not in shapes:
        return {"cascade.mask_head.kind": "none"}
    return {
        "cascade.mask_channels": shapes.get("roi.mask_heads.0.upsample.weight", shapes[MASKS][1:])[0],
        "cascade.mask_norm": _norm(
            shapes, "roi.mask_heads.0.convs.0.layers.0.norm" if levels else "roi.mask_heads.0.convs.0.norm"
        ),
        "cascade.mask_convs": len(_indices(shapes, r"roi\.mask_heads\.0\.convs\.(\d+)\.")),
        **_mask_variant(shapes),
    }


def _mask_variant(shapes: Shapes) -> dict[str, Any]:
    finer = shapes.get("roi.mask_heads.0.upsample_again.weight")
    if finer is not None:
        return {"cascade.mask_head.kind": "fine", "cascade.mask_head.detail_channels": finer[1]}
    return {"cascade.mask_head.kind": "fusion" if "roi.mask_heads.0.fc.weight" in shapes else "plain"}


def _semantic(shapes: Shapes) -> dict[str, Any]:
    logits = shapes.get("semantic.logits.weight")
    if logits is None:
        return {"semantic": False}
    convs = len(_indices(shapes, r"semantic\.convs\.(\d+)\."))
    norm = _norm(shapes, "semantic.convs.0.norm")
    return {
        "semantic": True,
        **_context(shapes),
        "semantic.norm": norm,
        "semantic.classes": logits[0],
        "semantic.channels": logits[1],
        "semantic.convs": convs,
    }


def _context(shapes: Shapes) -> dict[str, Any]:
    """Derive the context module of the semantic branch; its dilation rates are not visible in the shapes."""
    lines = shapes.get("semantic.context.down_across.0.weight")
    if lines is not None:
        return {"semantic.context.kind": "gcn", "semantic.context.kernel": lines[2]}
    return {"semantic.context.kind": "aspp" if "semantic.context.project.conv.weight" in shapes else "none"}


def config_value(config: Config, field: str) -> Any:
    """Return the value of a structure field in a configuration."""
    special: dict[str, Callable[[], Any]] = {
        "num_classes": lambda: config.num_classes,
        "rpn.anchors": lambda: len(config.rpn.anchor_ratios),
        "semantic": lambda: config.semantic is not None,
        # A one-stage model has no preceding mask feature, so it has no mask flow, whatever the field's value.
        "cascade.mask_flow": lambda: config.cascade.mask_flow and config.cascade.num_stages > 1,
    }
    if field in special:
        return special[field]()
    value: Any = config
    for part in field.split("."):
        value = getattr(value, part, None)  # another variant has other fields
    return "batch" if value == "sync" else value


_SHOWN = {
    "num_classes": "classes (number of)",
    "rpn.anchors": "rpn.anchor_ratios (number of)",
    "semantic": "semantic (branch present)",
}


def contradictions(structure: Mapping[str, Any], config: Config, ignored: frozenset[str] = frozenset()) -> list[str]:
    """Return a line for each field in which weights and configuration differ, except those `ignored`."""
    lines = []
    for field, actual in structure.items():
        configured = config_value(config, field)
        if (
            configured != actual
            and field not in ignored
            and not (field.startswith("semantic.") and config.semantic is None)
        ):
            lines.append(
                f"{_SHOWN.get(field, field)}: the weights have {_plain(actual)}, the configuration has "
                f"{_plain(configured)}"
            )
    return lines


def _plain(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)

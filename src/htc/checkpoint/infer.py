"""Infer a configuration for weights of other projects, from their shapes and from mmdetection's configuration text."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from htc.checkpoint.structure import contradictions, read_structure
from htc.config import Config, ResNet
from htc.config.base import field_errors
from htc.errors import CheckpointError
from htc.presets import PRESETS, preset
from htc.presets.coco import COCO_CLASSES, COCO_IDS, cascade_mask_rcnn, htc, htc_without_semantic, mask_rcnn


def infer_config(
    shapes: Mapping[str, tuple[int, ...]],
    facts: Mapping[str, Any],
    classes: tuple[str, ...] | None,
    experiment: str | None = None,
) -> Config:
    """Infer the configuration of weights of the Mask R-CNN, Cascade Mask R-CNN and HTC family.

    `shapes` maps our names to shapes; `facts` are dotted fields from mmdetection's configuration text; `classes` and
    `experiment` (the name of the preset) may be None if unknown. All other fields are those of the nearest preset.
    Raises `CheckpointError` for other architectures, and if the number of class names differs from that of the weights.
    """
    structure = read_structure(shapes)
    if "backbone.depth" not in structure:
        raise CheckpointError(
            "its backbone is not a ResNet and cannot be inferred from the file: pass the preset of its training as the "
            "model, and the file as --weights"
        )
    try:
        return _assemble(structure, facts, classes, experiment)
    except ValidationError as error:
        raise CheckpointError(
            f"the configuration in the file is not valid: {field_errors(error, Config)}; pass another with --config"
        ) from error


def _assemble(
    structure: Mapping[str, Any], facts: Mapping[str, Any], classes: tuple[str, ...] | None, experiment: str | None
) -> Config:
    base = _family(structure, experiment)
    names = stored_class_names(structure["num_classes"], classes)
    values = base.model_dump()
    values["classes"], values["category_ids"] = names, category_ids(names)
    if structure["semantic"] is False:
        values["semantic"] = None
        values["cascade"]["semantic_fusion"] = "none"
    elif values["semantic"] is None:
        values["semantic"] = {}
        values["cascade"]["semantic_fusion"] = "both"
    if values["rpn"]["kind"] != structure["rpn.kind"]:
        values["rpn"] = {"kind": structure["rpn.kind"]}
    for field, value in {**facts, **_settable(structure)}.items():
        if field == "cascade.semantic_fusion" and values["semantic"] is None:
            continue
        _put(values, field, value)
    # Some files contain mask flow weights although their configuration text disables mask flow.
    values["cascade"]["mask_flow"] = structure["cascade.mask_flow"] and facts.get("cascade.mask_flow", True)
    if structure["cascade.mask_head.kind"] == "none" and values["cascade"]["semantic_fusion"] in ("mask", "both"):
        values["cascade"]["semantic_fusion"] = "none" if values["semantic"] is None else "box"
    _fit_stages(values["cascade"], structure["cascade.num_stages"])
    config = Config.model_validate(values)
    known = base.preset in PRESETS and not contradictions(structure, preset(base.preset))
    return config if known else config.replace(preset="custom")


def stored_class_names(count: int, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the class names in the file; without any, COCO's for 80 classes, else numbered names."""
    if classes is None:
        return (
            COCO_CLASSES if count == len(COCO_CLASSES) else tuple(f"class {number}" for number in range(1, count + 1))
        )
    if len(classes) != count:
        raise CheckpointError(
            f"the weights have {count} classes, but the file has {len(classes)} class names "
            f"({', '.join(classes[:3])}, ...); set `classes`"
        )
    return classes


def category_ids(names: tuple[str, ...]) -> tuple[int, ...]:
    """Return COCO's category ids for the 80 COCO names in COCO's order, 1..K for any others."""
    return COCO_IDS if names == COCO_CLASSES else tuple(range(1, len(names) + 1))


def _family(structure: Mapping[str, Any], experiment: str | None) -> Config:
    if experiment in PRESETS and not contradictions(
        structure, preset(experiment), frozenset({"num_classes", "semantic.classes"})
    ):
        return preset(experiment)
    backbone = ResNet(
        **{
            field.removeprefix("backbone."): value
            for field, value in structure.items()
            if field.startswith("backbone.")
        }
    )
    if structure["cascade.num_stages"] == 1 and not structure["semantic"]:
        family = mask_rcnn("custom", backbone)
    elif structure["semantic"]:
        family = htc("custom", backbone)
    elif structure["cascade.mask_flow"]:
        family = htc_without_semantic("custom").replace(backbone=backbone)
    else:
        family = cascade_mask_rcnn("custom", backbone)
    twins = (candidate() for candidate in PRESETS.values())
    same = (twin for twin in twins if twin.replace(preset="custom", training=family.training) == family)
    return next(same, family)


def _settable(structure: Mapping[str, Any]) -> dict[str, Any]:
    """Return the structure fields that are configuration fields with the same name."""
    skipped = ("num_classes", "semantic", "rpn.anchors", "rpn.kind", "neck.kind", "cascade.mask_flow")
    fields = {field: value for field, value in structure.items() if field not in skipped}
    return {"neck": {"kind": structure["neck.kind"]}, **fields}


def _put(values: dict[str, Any], field: str, value: Any) -> None:
    *parents, name = field.split(".")
    for part in parents:
        values = values.setdefault(part, {}) if isinstance(values, dict) else {}
        if values is None:
            return
    values[name] = value


def _fit_stages(cascade: dict[str, Any], stages: int) -> None:
    """Fit per-stage values to the number of stages: cut them, or repeat the last one."""
    cascade["num_stages"] = stages
    for name in ("delta_stds", "ious", "loss_weights"):
        known = tuple(cascade[name])
        cascade[name] = (known + known[-1:] * stages)[:stages]

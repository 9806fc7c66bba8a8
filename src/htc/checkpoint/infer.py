"""A configuration for weights that come without one of ours: from their shapes, and from the original's text where
it says more.
"""

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
    """The configuration of arbitrary weights of the family.

    Arguments: name -> shape under our names; dotted fields that the original's configuration text says; class names if
    known; the name of the preset they were trained with if known. What neither shapes nor text tell comes from the
    nearest preset. Raises `CheckpointError` for other architectures and for class names that do not fit the number of
    classes.
    """
    structure = read_structure(shapes)
    if "backbone.depth" not in structure:
        raise CheckpointError(
            "its backbone is no ResNet, and the file does not say which: give the preset it was trained with, and the "
            "file as --weights"
        )
    try:
        return _assemble(structure, facts, classes, experiment)
    except ValidationError as error:
        raise CheckpointError(
            f"the configuration read from the file is not valid: {field_errors(error, Config)}; give --config"
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
    # Unused flow weights are in some files: the text may say that the flow is off.
    values["cascade"]["mask_flow"] = structure["cascade.mask_flow"] and facts.get("cascade.mask_flow", True)
    if structure["cascade.mask_head.kind"] == "none" and values["cascade"]["semantic_fusion"] in ("mask", "both"):
        values["cascade"]["semantic_fusion"] = "none" if values["semantic"] is None else "box"
    _fit_stages(values["cascade"], structure["cascade.num_stages"])
    config = Config.model_validate(values)
    known = base.preset in PRESETS and not contradictions(structure, preset(base.preset))
    return config if known else config.replace(preset="custom")


def stored_class_names(count: int, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """The file's own names; without any, COCO's for 80 classes and numbered ones else."""
    if classes is None:
        return (
            COCO_CLASSES if count == len(COCO_CLASSES) else tuple(f"class {number}" for number in range(1, count + 1))
        )
    if len(classes) != count:
        raise CheckpointError(
            f"classes: the weights have {count}, but the file names {len(classes)} ({', '.join(classes[:3])}, ...); "
            f"set `classes`"
        )
    return classes


def category_ids(names: tuple[str, ...]) -> tuple[int, ...]:
    """COCO's own ids for the 80 COCO names in COCO's order, 1..K for any others."""
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
    """Structure fields that are configuration fields of the same name."""
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
    """One value a stage, cut or repeated from the family's where the text does not give them."""
    cascade["num_stages"] = stages
    for name in ("delta_stds", "ious", "loss_weights"):
        known = tuple(cascade[name])
        cascade[name] = (known + known[-1:] * stages)[:stages]

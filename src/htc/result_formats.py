"""Detections as COCO results, labelme files, supervision's detections, plain values and drawings.

Called, and documented, by the methods of `htc.results.Detections`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from htc.data.images import VISIBLE, ImageSource, read_image
from htc.extras import require
from htc.visual.drawing import draw_objects, enlarge

if TYPE_CHECKING:
    import supervision

    from htc.results import Detections


def drawing(
    detections: "Detections", image: ImageSource, *, masks: bool, boxes: bool, labels: bool, scale: int
) -> UInt8[np.ndarray, "H W 3"]:
    """See `Detections.draw`."""
    masks = masks and detections.masks.exist
    pixels = read_image(image, intensity=VISIBLE)
    if pixels.shape[:2] != detections.size:
        raise ValueError(
            f"the detections are of an image of size {detections.size} (height, width), but this one has "
            f"{pixels.shape[:2]}: pass the original image"
        )
    larger = detections.masks.scaled(scale)
    named = zip(detections.class_names, detections.scores, strict=True)
    captions = [f"{name} {score:.2f}" for name, score in named] if labels else None
    crops = (lambda order: larger[order].crops()) if masks else None
    outlined = boxes or not masks
    return draw_objects(
        enlarge(pixels, scale), larger.boxes, detections.labels, crops, captions, outline_boxes=outlined
    )


def coco_results(detections: "Detections", image_id: int | str) -> list[dict[str, Any]]:
    """See `Detections.to_coco`."""
    sides = np.concatenate((detections.boxes[:, :2], detections.boxes[:, 2:] - detections.boxes[:, :2]), axis=1)
    rows = zip(
        detections.category_ids.tolist(),
        detections.class_names,
        _shortest(sides),
        _shortest(detections.scores),
        strict=True,
    )
    results = [
        {"image_id": image_id, "category_id": category, "category_name": name, "bbox": box, "score": score}
        for category, name, box, score in rows
    ]
    if not detections.masks.exist:
        return results
    return [{**result, "segmentation": mask} for result, mask in zip(results, detections.masks.rle(), strict=True)]


def plain_values(detections: "Detections") -> dict[str, Any]:
    """See `Detections.to_dict`."""
    masks = detections.masks.rle() if detections.masks.exist else [None] * len(detections)
    rows = zip(
        _shortest(detections.boxes),
        _shortest(detections.scores),
        detections.labels.tolist(),
        detections.class_names,
        strict=True,
    )
    instances = [
        {"box": box, "score": score, "label": label, "class_name": name, "category_id": category, "mask": mask}
        for (box, score, label, name), category, mask in zip(rows, detections.category_ids.tolist(), masks, strict=True)
    ]
    height, width = detections.size
    return {
        "source": detections.source,
        "index": detections.index,
        "height": height,
        "width": width,
        "instances": instances,
    }


def labelme_content(detections: "Detections", image_path: str, tolerance: float) -> dict[str, Any]:
    """See `Detections.to_labelme`."""
    kind, outlines = (
        ("polygon", detections.masks.outlines(tolerance))
        if detections.masks.exist
        else ("rectangle", [[box.reshape(2, 2)] for box in detections.boxes])
    )
    shapes = []
    for number, (detection, parts) in enumerate(zip(detections, outlines, strict=True)):
        group = number if len(parts) > 1 else None
        for part in parts:
            shape = {
                "label": detection.class_name,
                "points": part.tolist(),
                "group_id": group,
                "description": f"score {detection.score:.3f}",
            }
            shapes.append({**shape, "shape_type": kind, "flags": {}, "mask": None})
    height, width = detections.size
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def supervision_detections(detections: "Detections") -> "supervision.Detections":
    """See `Detections.to_supervision`."""
    require("vis", "Detections.to_supervision")
    import supervision

    exist = detections.masks.exist
    compact = (
        supervision.CompactMask.from_coco_rle(detections.masks.rle(), detections.masks.windows(), detections.size)
        if exist
        else None
    )
    converted = supervision.Detections(
        xyxy=detections.boxes, mask=compact, confidence=detections.scores, class_id=detections.labels
    )
    converted.data["class_name"] = np.array(detections.class_names, dtype=str)
    converted.data["category_id"] = detections.category_ids
    return converted


def _shortest(values: Float32[np.ndarray, "*shape"]) -> Any:
    """float32 values as the shortest equal decimals, in (nested) lists: 0.1 instead of 0.10000000149011612."""
    return values.astype(str).astype(np.float64).tolist()

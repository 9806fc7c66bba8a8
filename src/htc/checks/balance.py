"""What is there too little or too much of: classes, objects of an image, pixels of an object."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from htc.checks.findings import Finding, annotation_finding
from htc.config import PYRAMID_STRIDES, Input
from htc.data.advice import Statistics, class_repeats, repeat_threshold
from htc.data.annotation_file import AnnotationEntry, AnnotationFile
from htc.data.transforms import resized_size


def counted(part: AnnotationFile) -> list[tuple[AnnotationEntry, tuple[float, float, float, float]]]:
    """Objects that count (no crowds, of a known category, no unusable outline) and their boxes, xyxy, cut to the
    image.
    """
    found = []
    for one in part.annotations:
        where, size = one.where, one.image.size
        unusable = one.outline.segmentation is None and bool(one.record.get("segmentation"))
        if one.crowd or unusable or where is None or size is None or one.category not in part.classes:
            continue
        box = (max(where[0], 0.0), max(where[1], 0.0), min(where[2], float(size[1])), min(where[3], float(size[0])))
        if box[2] > box[0] and box[3] > box[1]:
            found.append((one, box))
    return found


def statistics(part: AnnotationFile) -> Statistics:
    """What the rules of `htc.data.advice` look at."""
    sized = [image for image in part.images if image.size is not None]
    place = {image.position: number for number, image in enumerate(sized)}
    labels = {id: number for number, id in enumerate(part.classes)}
    found = counted(part)
    return Statistics(
        classes=tuple(part.classes.values()),
        sizes=np.array([image.size for image in sized], np.int64).reshape(-1, 2),
        boxes=np.array([box for _, box in found], np.float64).reshape(-1, 4),
        labels=np.array([labels[one.category or 0] for one, _ in found], np.int64),
        images=np.array([place[one.image.position] for one, _ in found], np.int64),
    )


def absent_classes(part: AnnotationFile) -> Iterator[Finding]:
    """Categories without any object."""
    counts = Counter(one.category for one in part.annotations if not one.crowd)
    absent = [name for id, name in part.classes.items() if not counts[id]]
    if absent and part.annotations:
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        yield Finding(
            "class-absent", f"{len(absent)} of {len(part.classes)} classes have no object here: {shown}", part.file
        )


def rare_classes(part: AnnotationFile) -> Iterator[Finding]:
    """Classes in less than a tenth of the images in which the median class is."""
    data = statistics(part)
    threshold = repeat_threshold(data)
    if threshold is None:
        return
    shares, factors = data.class_shares, class_repeats(data, threshold)
    rare = [
        f"{data.classes[label]} ({shares[label] * len(data.sizes):.0f} images; repeat {factors[label]:.1f} times)"
        for label in np.argsort(shares)
        if factors[label] > 1
    ]
    yield Finding(
        "class-rare", f"{len(rare)} classes: {', '.join(rare[:5])}{', ...' if len(rare) > 5 else ''}", part.file
    )


def crowded_images(part: AnnotationFile, most: int) -> Iterator[Finding]:
    """Images with more objects than `most` detections."""
    for image in part.images:
        count = part.object_counts[image.position]
        if count > most:
            yield Finding(
                "picture-crowded",
                f"it has {count} objects; {most} detections are allowed",
                part.file,
                image.id,
                image.path,
            )


def tiny_objects(part: AnnotationFile, size: Input) -> Iterator[Finding]:
    """Objects whose box is less than one cell of the finest level (4 px) wide or high in the network's input."""
    for one, box in counted(part):
        assert one.image.size is not None
        height, width = one.image.size
        shown = resized_size((height, width), size.short_edge, size.long_edge, size.max_scale)
        w, h = (box[2] - box[0]) * shown[1] / width, (box[3] - box[1]) * shown[0] / height
        if min(w, h) < PYRAMID_STRIDES[0]:
            what = f"it is {w:.1f} x {h:.1f} px in an input of {shown[1]}x{shown[0]}"
            yield annotation_finding(part, one, "object-tiny", what, where=box)


BALANCE_CHECKS = (absent_classes, rare_classes)

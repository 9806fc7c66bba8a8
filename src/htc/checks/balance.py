"""Checks of the distribution of classes, instances per image and instance sizes."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from htc.checks.findings import Finding, annotation_finding
from htc.config import PYRAMID_STRIDES, Input
from htc.data.advice import Statistics, class_repeats, repeat_threshold
from htc.data.annotation_file import AnnotationFile
from htc.data.coco_records import AnnotationEntry
from htc.data.transforms import resized_size


def counted(part: AnnotationFile) -> list[tuple[AnnotationEntry, tuple[float, float, float, float]]]:
    """Return the instances with a known category and a usable outline, without crowds, and their boxes (xyxy), clipped
    to the image.
    """
    usable_instances = []
    for one in part.annotations:
        where, size = one.where, one.image.size
        unusable = one.outline.segmentation is None and one.segmented
        if one.crowd or unusable or where is None or size is None or one.category not in part.classes:
            continue
        box = (max(where[0], 0.0), max(where[1], 0.0), min(where[2], float(size[1])), min(where[3], float(size[0])))
        if box[2] > box[0] and box[3] > box[1]:
            usable_instances.append((one, box))
    return usable_instances


def statistics(part: AnnotationFile) -> Statistics:
    """Compute the statistics for the rules of `htc.data.advice`."""
    sized = [image for image in part.images if image.size is not None]
    index_of = {image.position: number for number, image in enumerate(sized)}
    labels = {id: number for number, id in enumerate(part.classes)}
    instances = counted(part)
    return Statistics(
        classes=tuple(part.classes.values()),
        sizes=np.array([image.size for image in sized], np.int64).reshape(-1, 2),
        boxes=np.array([box for _, box in instances], np.float64).reshape(-1, 4),
        labels=np.array([labels[one.category or 0] for one, _ in instances], np.int64),
        images=np.array([index_of[one.image.position] for one, _ in instances], np.int64),
    )


def absent_classes(part: AnnotationFile) -> Iterator[Finding]:
    """Report categories without instances."""
    counts = Counter(one.category for one in part.annotations if not one.crowd)
    absent = [name for id, name in part.classes.items() if not counts[id]]
    if absent and part.annotations:
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        yield Finding(
            "class-absent", f"{len(absent)} of {len(part.classes)} classes have no instance here: {shown}", part.file
        )


def learnable(part: AnnotationFile) -> Iterator[Finding]:
    """Report a part without any instance that can be learned, or evaluated in the validation set, and ignored ones."""
    ignored = [one for one in part.annotations if one.ignored]
    if ignored:
        what = f"{len(ignored)} of {len(part.annotations)} annotations have ignore 1"
        yield annotation_finding(part, ignored[0], "annotation-ignored", what)
    if not part.images or any(min(box[2] - box[0], box[3] - box[1]) >= 1 for _, box in counted(part)):
        return
    crowds = sum(one.crowd for one in part.annotations)
    if part.annotation_faults or any(_is_faulty(part, one) for one in part.annotations):
        return  # which has its own finding
    if not part.annotations:
        reason = f"none of its {len(part.images)} images has an annotation: there are no annotations"
    elif crowds == len(part.annotations):
        marks = [name for name, count in (("iscrowd 1", crowds - len(ignored)), ("ignore 1", len(ignored))) if count]
        reason = f"all {crowds} annotations are crowd regions ({' or '.join(marks)}): there are no objects to count"
    else:
        reason = f"none of its {len(part.annotations)} annotations can be used as an instance"
    yield Finding("nothing-to-evaluate" if part.name == "val" else "nothing-to-learn", reason, part.file)


def _is_faulty(part: AnnotationFile, one: AnnotationEntry) -> bool:
    unusable = one.outline.segmentation is None and one.segmented
    return unusable or one.image.size is None or one.category not in part.classes or one.where is None


def rare_classes(part: AnnotationFile) -> Iterator[Finding]:
    """Report classes that are in less than a tenth as many images as the median class."""
    data = statistics(part)
    threshold = repeat_threshold(data)
    if threshold is None:
        return
    shares, factors = data.class_shares, class_repeats(data, threshold)
    rare = [
        f"{data.classes[label]} ({shares[label] * len(data.sizes):.0f} images; repeat factor {factors[label]:.1f})"
        for label in np.argsort(shares)
        if factors[label] > 1
    ]
    yield Finding(
        "class-rare", f"{len(rare)} classes: {', '.join(rare[:5])}{', ...' if len(rare) > 5 else ''}", part.file
    )


def crowded_images(part: AnnotationFile, most: int) -> Iterator[Finding]:
    """Report images with more than `most` instances."""
    for image in part.images:
        count = part.object_counts[image.position]
        if count > most:
            yield Finding(
                "picture-crowded",
                f"it has {count} instances; the maximum number of detections is {most}",
                part.file,
                image.id,
                image.path,
            )


def tiny_objects(part: AnnotationFile, size: Input) -> Iterator[Finding]:
    """Report instances with a box smaller than a cell of the finest pyramid level (4 px) at the input size."""
    for one, box in counted(part):
        assert one.image.size is not None
        height, width = one.image.size
        resized = resized_size((height, width), size.short_edge, size.long_edge, size.max_scale)
        w, h = (box[2] - box[0]) * resized[1] / width, (box[3] - box[1]) * resized[0] / height
        if min(w, h) < PYRAMID_STRIDES[0]:
            what = f"its box is {w:.1f} x {h:.1f} px at the input size {resized[1]}x{resized[0]}"
            yield annotation_finding(part, one, "object-tiny", what, where=box)


BALANCE_CHECKS = (learnable, absent_classes, rare_classes)

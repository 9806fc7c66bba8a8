"""Checks of the distribution of classes, instances per image and instance sizes."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from htc.checks.findings import Finding, annotation_finding
from htc.config import PYRAMID_STRIDES, Input
from htc.data.advice import Statistics, class_repeats, repeat_threshold
from htc.data.annotation_file import AnnotationFile
from htc.data.transforms import resized_size


def counted(part: AnnotationFile) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 4"]]:
    """Return the indices of the instances with a known category and a usable outline, without crowds, and their boxes
    (xyxy), clipped to the image.
    """
    table = part.table
    kept = ~table.crowd & ~_faulty(part)
    sizes = _sizes(part)[table.images[kept]]
    boxes = table.where[kept]
    boxes = np.concatenate((np.maximum(boxes[:, :2], 0.0), np.minimum(boxes[:, 2:], sizes[:, ::-1])), axis=1)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return np.flatnonzero(kept)[inside], boxes[inside]


def _faulty(part: AnnotationFile) -> Bool[np.ndarray, " N"]:
    """Return which annotations have an unusable outline, no box or mask, or an unknown image size or category."""
    table = part.table
    return (~table.usable & table.segmented) | ~table.sized | (table.labels < 0) | np.isnan(table.where[:, 0])


def _sizes(part: AnnotationFile) -> Int[np.ndarray, "P 2"]:
    """Return (height, width) by the position of the image record; zeros if unknown."""
    sizes = np.zeros((max((image.position for image in part.images), default=-1) + 1, 2), np.int64)
    for image in part.images:
        if image.size is not None:
            sizes[image.position] = image.size
    return sizes


def statistics(part: AnnotationFile) -> Statistics:
    """Compute the statistics for the rules of `htc.data.advice`."""
    sizes = _sizes(part)
    sized = np.array([image.position for image in part.images if image.size is not None], np.int64)
    instances, boxes = counted(part)
    return Statistics(
        classes=tuple(part.classes.values()),
        sizes=sizes[sized].reshape(-1, 2),
        boxes=boxes,
        labels=part.table.labels[instances],
        images=np.searchsorted(sized, part.table.images[instances]),
    )


def absent_classes(part: AnnotationFile) -> Iterator[Finding]:
    """Report categories without instances."""
    labels = part.table.labels
    counts = np.bincount(labels[~part.table.crowd & (labels >= 0)], minlength=len(part.classes))
    absent = [name for name, count in zip(part.classes.values(), counts, strict=True) if not count]
    if absent and len(labels):
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        yield Finding(
            "class-absent", f"{len(absent)} of {len(part.classes)} classes have no instance here: {shown}", part.file
        )


def learnable(part: AnnotationFile) -> Iterator[Finding]:
    """Report a part without any instance that can be learned, or evaluated in the validation set, and ignored ones."""
    table, count = part.table, len(part.annotations)
    ignored = int(table.ignored.sum())
    if ignored:
        first = part.annotations[int(np.argmax(table.ignored))]
        yield annotation_finding(part, first, "annotation-ignored", f"{ignored} of {count} annotations have ignore 1")
    boxes = counted(part)[1]
    if not part.images or (boxes[:, 2:] - boxes[:, :2] >= 1).all(1).any():
        return
    crowds = int(table.crowd.sum())
    if part.annotation_faults or _faulty(part).any():
        return  # which has its own finding
    if not count:
        reason = f"none of its {len(part.images)} images has an annotation: there are no annotations"
    elif crowds == count:
        marks = [name for name, of in (("iscrowd 1", crowds - ignored), ("ignore 1", ignored)) if of]
        reason = f"all {crowds} annotations are crowd regions ({' or '.join(marks)}): there are no objects to count"
    else:
        reason = f"none of its {count} annotations can be used as an instance"
    yield Finding("nothing-to-evaluate" if part.name == "val" else "nothing-to-learn", reason, part.file)


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
    counts = np.bincount(part.table.images[~part.table.crowd], minlength=1)
    many = dict(zip(np.flatnonzero(counts > most).tolist(), counts[counts > most].tolist(), strict=True))
    for image in part.images:
        count = many.get(image.position)
        if count is not None:
            yield Finding(
                "picture-crowded",
                f"it has {count} instances; the maximum number of detections is {most}",
                part.file,
                image.id,
                image.path,
            )


def tiny_objects(part: AnnotationFile, size: Input) -> Iterator[Finding]:
    """Report instances with a box smaller than a cell of the finest pyramid level (4 px) at the input size."""
    instances, boxes = counted(part)
    sizes = _sizes(part)[part.table.images[instances]]
    kinds, kind_of = np.unique(sizes, axis=0, return_inverse=True)
    inputs = np.array(
        [resized_size((h, w), size.short_edge, size.long_edge, size.max_scale) for h, w in kinds.tolist()], np.int64
    ).reshape(-1, 2)[kind_of.reshape(-1)]
    shown = (boxes[:, 2:] - boxes[:, :2]) * inputs[:, ::-1] / sizes[:, ::-1]
    for index in np.flatnonzero(shown.min(1, initial=np.inf) < PYRAMID_STRIDES[0]).tolist():
        (w, h), (height, width) = shown[index].tolist(), inputs[index].tolist()
        what = f"its box is {w:.1f} x {h:.1f} px at the input size {width}x{height}"
        x1, y1, x2, y2 = boxes[index].tolist()
        one = part.annotations[int(instances[index])]
        yield annotation_finding(part, one, "object-tiny", what, where=(x1, y1, x2, y2))


BALANCE_CHECKS = (learnable, absent_classes, rare_classes)

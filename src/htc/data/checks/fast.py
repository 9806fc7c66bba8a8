"""All checks that need no pixels: about a millisecond a picture."""

from collections.abc import Iterator

from htc.config import Input
from htc.data.checks import balance, boxes, doubles, outlines, picture_files, records, splits
from htc.data.checks.finding import Finding
from htc.data.checks.part import Part

OF_A_PART = (*records.CHECKS, *picture_files.CHECKS, *outlines.CHECKS, *boxes.CHECKS, *doubles.CHECKS, *balance.CHECKS)


def fast_findings(part: Part, size: Input, max_detections: int) -> Iterator[Finding]:
    """What is wrong with one part, for a network with that input and as many detections a picture."""
    for check in OF_A_PART:
        yield from check(part)
    yield from balance.crowded_pictures(part, max_detections)
    yield from balance.tiny_objects(part, size)


def fast_findings_between(train: Part, val: Part) -> Iterator[Finding]:
    """What is wrong between two parts."""
    for check in splits.CHECKS:
        yield from check(train, val)

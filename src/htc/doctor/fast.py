"""All checks that need no pixels: about a millisecond a picture."""

from collections.abc import Iterator
from dataclasses import replace

from htc.config import Input
from htc.doctor import balance, boxes, doubles, outlines, records, splits
from htc.doctor import image_files as picture_files
from htc.doctor.finding import Finding
from htc.doctor.part import Part

UNKNOWN_SIZE = ("picture-size", "picture-turned", "picture-orientation")
OF_A_PART = (*records.CHECKS, *picture_files.CHECKS, *outlines.CHECKS, *boxes.CHECKS, *doubles.CHECKS, *balance.CHECKS)


def fast_findings(part: Part, size: Input, max_detections: int) -> Iterator[Finding]:
    """What is wrong with one part, for a network with that input and as many detections a picture."""
    found = [finding for check in OF_A_PART for finding in check(part)]
    doubtful = {finding.image for finding in found if finding.code in UNKNOWN_SIZE}
    for finding in found:
        # On a picture of another size every outline may be wrong: nothing is corrected by it.
        yield replace(finding, edits=()) if finding.annotation is not None and finding.image in doubtful else finding
    yield from balance.crowded_pictures(part, max_detections)
    yield from balance.tiny_objects(part, size)


def fast_findings_between(train: Part, val: Part) -> Iterator[Finding]:
    """What is wrong between two parts."""
    for check in splits.CHECKS:
        yield from check(train, val)

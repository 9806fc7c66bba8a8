"""A whole examination: every check of every part, and what the data ask of a configuration."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from htc.config import Inference, Input
from htc.data.advice import Advice, Statistics, anchor_scale, input_size, max_detections, sampling
from htc.doctor.balance import statistics
from htc.doctor.contents import Content, copies, damaged, leaks, read_contents
from htc.doctor.fast import fast_findings, fast_findings_between
from htc.doctor.finding import SEVERITIES, Finding, Severity
from htc.doctor.kinds import KINDS
from htc.doctor.maps import map_files, map_values
from htc.doctor.part import Part

COCO_STUFF = 183
"""Classes of the semantic branch in the original's presets."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What is to be examined, and for which model."""

    train: Part
    val: Part | None = None
    semantic: Path | None = None
    semantic_classes: int = COCO_STUFF
    max_detections: int = Inference().max_detections
    found_before: tuple[Finding, ...] = ()
    """Of the folder as a whole."""


@dataclass(frozen=True)
class Examination:
    """What was found, worst first."""

    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]
    data: Statistics
    """Of the training part."""
    advice: tuple[Advice, ...]

    def count(self, severity: Severity) -> int:
        """Findings of that severity."""
        return sum(KINDS[finding.code].severity == severity for finding in self.findings)

    @property
    def faulty(self) -> bool:
        """Whether there are errors or warnings; notes are no faults."""
        return any(KINDS[finding.code].severity != "note" for finding in self.findings)

    @property
    def by_code(self) -> dict[str, list[Finding]]:
        """Findings of each kind, worst kinds first."""
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.code, []).append(finding)
        return found


def examine(request: Request, progress: Progress | None = None) -> Examination:
    """Runs all checks; every picture is decoded once. Raises `DataError` only for folders that are missing."""
    data = statistics(request.train)
    size = advised_input(data)
    findings = list(request.found_before)
    contents: list[list[Content]] = []
    parts = (request.train,) if request.val is None else (request.train, request.val)
    for part in parts:
        found = list(fast_findings(part, size, request.max_detections))
        contents.append(read_contents(part, progress))
        unreadable = {one.picture for one in found if one.code == "picture-unreadable"}
        findings += [*found, *damaged(contents[-1], unreadable), *copies(part, contents[-1])]
    if request.val is not None:
        findings += [*fast_findings_between(request.train, request.val), *leaks(request.val, *contents)]
    if request.semantic is not None:
        findings += [
            *map_files(request.train, request.semantic),
            *map_values(request.train, request.semantic, request.semantic_classes),
        ]
    return Examination(parts, tuple(_sorted(findings)), data, advice(data))


def repairable(request: Request) -> Callable[[Part], Iterable[Finding]]:
    """The checks whose findings can be corrected in the file: those of one part that need no pixels."""
    size = advised_input(statistics(request.train))
    return lambda part: fast_findings(part, size, request.max_detections)


def advice(data: Statistics) -> tuple[Advice, ...]:
    """Input size, anchors at that size, detections a picture, sampling."""
    return input_size(data), anchor_scale(data, advised_input(data)), max_detections(data), sampling(data)


def advised_input(data: Statistics) -> Input:
    """The input of the advised size."""
    return Input.model_validate({name.partition(".")[2]: value for name, value in input_size(data).settings.items()})


def _sorted(findings: list[Finding]) -> list[Finding]:
    """Worst first, kinds in the order of their table; a leak that two checks found is told once."""
    order = {code: (SEVERITIES.index(kind.severity), place) for place, (code, kind) in enumerate(KINDS.items())}
    seen: set[tuple[object, ...]] = set()
    unique = []
    for finding in findings:
        key = (finding.code, finding.file, finding.image, finding.annotation, finding.what)
        if key not in seen:
            seen.add(key)
            unique.append(finding)
    return sorted(unique, key=lambda finding: order[finding.code])

"""Safe corrections of an annotation file."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from htc.checks.examine import Request, repairable
from htc.checks.findings import Edit, Finding
from htc.data.annotation_file import AnnotationFile, annotation_file
from htc.files import whole_file

ROUNDS = 8
"""Maximum rounds of repair, since a correction can reveal another fault: for example, a box may be wrong once an empty
polygon is removed.
"""


@dataclass
class Repaired:
    """The corrected content, and the number of corrections by code."""

    content: dict[str, Any]
    corrected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RepairedFile:
    """The result of `write_repaired`."""

    file: Path | None
    """The corrected annotation file; None if nothing can be corrected and no file was written."""
    corrected: Mapping[str, int]
    """Number of corrections by code."""

    @property
    def summary(self) -> str:
        """The corrections in one line: `2 x box-empty, 1 x ...`."""
        return ", ".join(f"{count} x {code}" for code, count in self.corrected.items())

    def to_json(self) -> dict[str, Any]:
        """Return the entry `fixed` of the JSON of `htc doctor`."""
        return {"file": None if self.file is None else str(self.file), "corrected": dict(self.corrected)}


def write_repaired(request: Request, target: Path) -> RepairedFile:
    """Write the corrected training annotations if anything can be corrected. Raises `OutputError`."""
    repaired = repair(request.train, repairable(request))
    if not repaired.corrected:
        return RepairedFile(None, {})
    write_annotations(target, repaired.content)
    return RepairedFile(target, repaired.corrected)


def repair(part: AnnotationFile, check: Callable[[AnnotationFile], Iterable[Finding]]) -> Repaired:
    """Apply the edits of all findings, repeatedly, until no edits are left. `part` is not changed."""
    result = Repaired(copy.deepcopy(dict(part.content)))
    for _ in range(ROUNDS):
        findings = [
            finding
            for finding in check(annotation_file(result.content, part.file, part.folder, part.name))
            if finding.edits
        ]
        if not findings:
            break
        for finding in findings:
            result.corrected[finding.code] = result.corrected.get(finding.code, 0) + 1
        _apply(result.content, [edit for finding in findings for edit in finding.edits])
    return result


def _apply(content: dict[str, Any], edits: list[Edit]) -> None:
    removed: dict[str, set[int]] = {}
    for edit in edits:
        if edit.change is None:
            removed.setdefault(edit.part, set()).add(edit.position)
        else:
            content[edit.part][edit.position].update(edit.change)
    for part, positions in removed.items():
        content[part] = [record for position, record in enumerate(content[part]) if position not in positions]


def write_annotations(path: Path, content: dict[str, Any]) -> None:
    """Write the file. NaN stays NaN, since only a person can decide on the right value. Raises `OutputError`."""
    with whole_file(path) as writer:
        writer.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")

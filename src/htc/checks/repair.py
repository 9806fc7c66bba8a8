"""Safe corrections of an annotation file."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from htc.checks.examine import Request, repairable
from htc.checks.findings import Edit, Finding, ListName
from htc.data.annotation_file import AnnotationFile, annotation_file
from htc.data.record_values import short
from htc.files import whole_file

ROUNDS = 8
"""Maximum rounds of repair, since a correction can reveal another fault: for example, a box may be wrong once an empty
polygon is removed.
"""

LONGEST = 120
"""Characters of a value in the text; the JSON has all."""
SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}


@dataclass(frozen=True)
class Change:
    """One value that was replaced, or one record that was removed."""

    code: str
    """The kind of fault that it corrects."""
    part: ListName
    id: Any
    """Id of the record."""
    field: str | None
    """None: the whole record was removed."""
    old: Any
    """None for a field that was missing."""
    new: Any = None

    def __str__(self) -> str:
        record = f"{SINGULAR[self.part]} {self.id}"
        if self.field is None:
            return f"{self.code}: {record} removed: {short(self.old, LONGEST)}"
        return f"{self.code}: {record}: {self.field} {short(self.old, LONGEST)} -> {short(self.new, LONGEST)}"


@dataclass
class Repaired:
    """The corrected content, the number of corrections by code, and every change."""

    content: dict[str, Any]
    corrected: dict[str, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True)
class RepairedFile:
    """The result of `write_repaired`."""

    file: Path | None
    """The corrected annotation file; None if nothing can be corrected and no file was written."""
    corrected: Mapping[str, int]
    """Number of corrections by code."""
    changes: tuple[Change, ...] = ()
    """Every value that was replaced and every record that was removed, with the old value."""

    @property
    def summary(self) -> str:
        """The corrections in one line: `2 x box-empty, 1 x ...`."""
        return ", ".join(f"{count} x {code}" for code, count in self.corrected.items())

    def to_json(self) -> dict[str, Any]:
        """Return the entry `fixed` of the JSON of `htc doctor`."""
        return {
            "file": None if self.file is None else str(self.file),
            "corrected": dict(self.corrected),
            "changes": [
                {
                    "code": one.code,
                    "list": one.part,
                    "id": one.id,
                    "field": one.field,
                    "old": one.old,
                    "new": one.new,
                }
                for one in self.changes
            ],
        }


def write_repaired(request: Request, target: Path) -> RepairedFile:
    """Write the corrected training annotations if anything can be corrected. Raises `OutputError`."""
    repaired = repair(request.train, repairable(request))
    if not repaired.corrected:
        return RepairedFile(None, {})
    write_annotations(target, repaired.content)
    return RepairedFile(target, repaired.corrected, tuple(repaired.changes))


def repair(part: AnnotationFile, check: Callable[[AnnotationFile], Iterable[Finding]]) -> Repaired:
    """Apply the edits of all findings, repeatedly, until no edits are left. `part` is not changed."""
    result = Repaired(copy.deepcopy(dict(part.content)))
    for _ in range(ROUNDS):
        findings = [
            finding
            for finding in check(annotation_file(result.content, part.file, part.folder, part.name, holes=part.holes))
            if finding.edits
        ]
        if not findings:
            break
        for finding in findings:
            result.corrected[finding.code] = result.corrected.get(finding.code, 0) + 1
        edits = [(finding.code, edit) for finding in findings for edit in finding.edits]
        result.changes += _apply(result.content, edits)
    return result


def _apply(content: dict[str, Any], edits: list[tuple[str, Edit]]) -> list[Change]:
    """Apply the edits and return what they changed."""
    changes: list[Change] = []
    removed: dict[str, set[int]] = {}
    for code, edit in edits:
        record = content[edit.part][edit.position]
        id = record.get("id") if isinstance(record, dict) else None
        if edit.change is None:
            if edit.position not in removed.setdefault(edit.part, set()):
                changes.append(Change(code, edit.part, id, None, copy.deepcopy(record)))
            removed[edit.part].add(edit.position)
            continue
        changes += [
            Change(code, edit.part, id, name, copy.deepcopy(record.get(name)), value)
            for name, value in edit.change.items()
            if name not in record or record[name] != value or type(record[name]) is not type(value)
        ]
        record.update(edit.change)
    for part, positions in removed.items():
        content[part] = [record for position, record in enumerate(content[part]) if position not in positions]
    return changes


def write_annotations(path: Path, content: dict[str, Any]) -> None:
    """Write the file. NaN stays NaN, since only a person can decide on the right value. Raises `OutputError`."""
    with whole_file(path) as writer:
        writer.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")

"""The report of an examination as text and as JSON."""

from collections.abc import Iterator
from typing import Any

from htc.checks.examine import Examination
from htc.checks.findings import SEVERITIES, Finding
from htc.checks.kinds import FINDING_KINDS
from htc.checks.repair import RepairedFile
from htc.data.advice import Advice

EXAMPLES = 3
"""Maximum number of findings of each kind in the text; JSON and page contain more."""


def report_lines(examination: Examination) -> Iterator[str]:
    """Yield the lines of the report: files and counts, each kind of fault with reason, remedy and examples, advice."""
    for part in examination.parts:
        named = f"{part.name}: " if part.name else ""
        classes = "1 class" if len(part.classes) == 1 else f"{len(part.classes)} classes"
        yield f"{named}{len(part.images)} images, {len(part.annotations)} instances, {classes} ({part.file})"
    yield verdict(examination)
    for code, findings in examination.by_code.items():
        kind = FINDING_KINDS[code]
        yield ""
        yield f"{kind.severity} {code} ({len(findings)}): {kind.title}"
        yield f"  why: {kind.why}"
        yield f"  do:  {kind.remedy}{_fixes(findings)}"
        for finding in findings[:EXAMPLES]:
            yield f"  - {finding.location}: {finding.what}"
        if len(findings) > EXAMPLES:
            yield f"  - ... and {len(findings) - EXAMPLES} more"
    yield ""
    yield "advice"
    for advice in examination.advice:
        yield f"  {flags(advice) or 'no flag needed'}"
        yield f"    {advice.reason}"


def verdict(examination: Examination) -> str:
    """Return the numbers of errors, warnings and notes as text."""
    if not examination.findings:
        return "no faults"
    return ", ".join(
        f"{examination.count(severity)} {severity}{'' if examination.count(severity) == 1 else 's'}"
        for severity in SEVERITIES
    )


def flags(advice: Advice) -> str:
    """Format the advised settings as flags of `htc train`."""
    return " ".join(f"--{name} {value:g}" for name, value in advice.settings.items())


def _fixes(findings: list[Finding]) -> str:
    fixable = sum(bool(finding.edits) for finding in findings)
    if not fixable:
        return ""
    how = sorted({finding.fixed_by for finding in findings if finding.edits})
    return f" (--fix corrects {fixable} of {len(findings)}: {'; '.join(how[:2])}{'; ...' if len(how) > 2 else ''})"


def to_json(examination: Examination, fixed: RepairedFile | None = None) -> dict[str, Any]:
    """Return the whole examination for a JSON file; docs/reference/files.md describes the fields."""
    return {
        "ok": not examination.faulty,
        "counts": {f"{severity}s": examination.count(severity) for severity in SEVERITIES},
        "parts": [
            {
                "name": part.name,
                "annotations": str(part.file),
                "images": str(part.folder),
                "pictures": len(part.images),
                "objects": len(part.annotations),
                "classes": list(part.classes.values()),
            }
            for part in examination.parts
        ],
        "codes": {code: _kind(code) for code in examination.by_code},
        "findings": [_finding(finding) for finding in examination.findings],
        "advice": [{"settings": advice.settings, "reason": advice.reason} for advice in examination.advice],
        "fixed": None if fixed is None else fixed.to_json(),
    }


def _kind(code: str) -> dict[str, str]:
    kind = FINDING_KINDS[code]
    return {"severity": kind.severity, "title": kind.title, "why": kind.why, "remedy": kind.remedy}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": FINDING_KINDS[finding.code].severity,
        "what": finding.what,
        "file": str(finding.file),
        "image_id": finding.image,
        "picture": None if finding.image_path is None else str(finding.image_path),
        "annotation_id": finding.annotation,
        "box": None if finding.box is None else [float(value) for value in finding.box],
        "fix": finding.fixed_by if finding.edits else None,
    }

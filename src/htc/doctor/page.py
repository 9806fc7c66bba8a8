"""An examination as one page: what was found, with pictures, and what the data ask of a model."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from htc.data.advice import ANCHOR_SCALES, anchor_coverage
from htc.doctor.examine import Examination, advised_input
from htc.doctor.finding import SEVERITIES, Finding, Severity
from htc.doctor.kinds import KINDS
from htc.doctor.report import flags, verdict
from htc.doctor.thumbnails import thumbnail
from htc.visual.charts import bars
from htc.visual.page import (
    Cell,
    Fact,
    Facts,
    Figure,
    Gallery,
    Notice,
    Page,
    Part,
    Section,
    Table,
    Text,
    Tone,
    pixels,
    vector,
)

SHOWN_PICTURES, SHOWN_ROWS, SHOWN_CLASSES = 6, 20, 40
TONES: dict[Severity, Tone] = {"error": "bad", "warning": "warning", "note": "plain"}
TITLES: dict[Severity, str] = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def page_of(examination: Examination, fixed: dict[str, Any] | None = None) -> Page:
    """The page; `fixed` is what `--fix` corrected."""
    files = " and ".join(part.file.name for part in examination.parts)
    sections = [_summary(examination, fixed)]
    sections += [_severity(examination, severity) for severity in SEVERITIES if examination.count(severity)]
    sections += [_advice(examination), _data(examination)]
    return Page(
        f"Data set examination: {files}",
        sections,
        verdict(examination),
        "Written by htc doctor. docs/doctor.md explains every code.",
    )


def _summary(examination: Examination, fixed: dict[str, Any] | None) -> Section:
    facts = [
        Fact(
            f"pictures{' in ' + part.name if part.name else ''}",
            f"{len(part.pictures):,}",
            f"{len(part.objects):,} objects, {len(part.classes)} classes",
        )
        for part in examination.parts
    ]
    tones: dict[Severity, Tone] = {"error": "bad", "warning": "warning", "note": "plain"}
    for severity in SEVERITIES:
        count = examination.count(severity)
        facts.append(Fact(TITLES[severity].lower(), f"{count:,}", tone=tones[severity] if count else "good"))
    rows = [
        [
            KINDS[code].severity,
            code,
            Cell(str(len(findings)), tone=TONES[KINDS[code].severity]),
            KINDS[code].title,
            _fix_text(findings),
        ]
        for code, findings in examination.by_code.items()
    ]
    parts: list[Part] = [Facts(facts)]
    if rows:
        parts.append(Table(("severity", "code", "places", "what is wrong", "--fix"), rows))
    else:
        parts.append(Notice("Every check passed.", "good"))
    if fixed is not None and fixed["file"] is not None:
        listed = ", ".join(f"{count} x {code}" for code, count in fixed["corrected"].items())
        parts.append(
            Notice(f"{listed}. The file that was examined is as it was.", "good", f"Corrected in {fixed['file']}")
        )
    return Section("Summary", parts)


def _fix_text(findings: Sequence[Finding]) -> str:
    fixable = sum(bool(finding.edits) for finding in findings)
    return "" if not fixable else "corrects it" if fixable == len(findings) else f"corrects {fixable}"


def _severity(examination: Examination, severity: Severity) -> Section:
    """Each kind of fault of that severity: why, what to do, pictures, list."""
    parts: list[Part] = []
    for code, findings in examination.by_code.items():
        kind = KINDS[code]
        if kind.severity != severity:
            continue
        parts.append(
            Notice(
                f"Why it matters: {kind.why}.\nWhat to do: {kind.remedy}.",
                TONES[severity],
                f"{kind.title} ({code}, {len(findings)})",
            )
        )
        figures = [figure for finding in _of_several_pictures(findings) if (figure := _figure(finding)) is not None]
        if figures:
            parts.append(Gallery(figures, least=220))
        if len(findings) > len(figures):
            parts.append(_list(findings))
    return Section(TITLES[severity], parts, "Boxes are orange, outlines blue, as the annotation file has them.")


def _of_several_pictures(findings: Sequence[Finding]) -> list[Finding]:
    """The first finding of each picture, then the others, as many as are shown."""
    first = list({finding.picture: finding for finding in reversed(findings)}.values())[::-1]
    chosen = {id(finding) for finding in first}
    return [*first, *(finding for finding in findings if id(finding) not in chosen)][:SHOWN_PICTURES]


def _figure(finding: Finding) -> Figure | None:
    image = thumbnail(finding)
    if image is None:
        return None
    fix = f" --fix: {finding.fixed_by}." if finding.edits else ""
    return Figure(pixels(image), f"{finding.place}: {finding.what}", f"{_place(finding)}: {finding.what}.{fix}")


def _list(findings: Sequence[Finding]) -> Table:
    fixable = any(finding.edits for finding in findings)
    columns = ("where", "what", "--fix") if fixable else ("where", "what")
    rows = [
        [_place(finding), finding.what, finding.fixed_by if finding.edits else ""][: len(columns)]
        for finding in findings[:SHOWN_ROWS]
    ]
    more = len(findings) - SHOWN_ROWS
    return Table(columns, rows, f"{more} more are in the JSON (--json FILE)." if more > 0 else "")


def _place(finding: Finding) -> str:
    picture = "" if finding.picture is None else f", {finding.picture.name}"
    return f"{finding.place}{picture}"


def _advice(examination: Examination) -> Section:
    rows = [[flags(advice) or "as the preset", advice.reason] for advice in examination.advice]
    return Section(
        "Advice",
        [Table(("flags of htc train", "what was measured, and the rule"), rows)],
        "What these data ask of a model.",
    )


def _data(examination: Examination) -> Section:
    """Objects by size, pictures by objects, classes, anchors."""
    data = examination.data
    if not len(data.boxes):
        return Section("The data", [Text("There is no object to measure.")])
    edges = [0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, np.inf]
    sizes = np.histogram(data.sides, edges)[0]
    names = [f"{low:g}–{high:g}" if high < np.inf else f"{low:g}+" for low, high in pairwise(edges)]
    size = advised_input(data)
    covered = [100 * anchor_coverage(data, size, scale) for scale in ANCHOR_SCALES]
    charts = [
        _chart(
            bars(names, sizes.tolist(), "Objects by size", ("side in pixels of the picture", "objects")),
            "Histogram of object sizes",
        ),
        _chart(_objects_chart(data.counts), "Histogram of objects a picture"),
        _chart(
            bars(
                [f"{scale:g}" for scale in ANCHOR_SCALES],
                covered,
                "Objects with an anchor of IoU 0.5",
                ("rpn.anchor_scale", "% of the objects"),
            ),
            "Share of the objects that anchors of each scale serve",
        ),
    ]
    return Section(
        "The data",
        [Gallery(charts, least=340), *_classes(examination)],
        f"The training part, at the advised short edge of {size.short_edge} px.",
    )


def _objects_chart(counts: np.ndarray) -> str:
    top = int(counts.max(initial=0))
    step = max(1, -(-(top + 1) // 15))
    found = np.bincount(counts // step, minlength=top // step + 1)
    names = [str(low * step) if step == 1 else f"{low * step}–{low * step + step - 1}" for low in range(len(found))]
    return bars(names, found.tolist(), "Pictures by objects", ("objects in a picture", "pictures"))


def _classes(examination: Examination) -> list[Part]:
    """Objects of each class in both parts."""
    if len(examination.data.classes) < 2:
        return []
    counts = {part.name or "objects": _class_counts(part) for part in examination.parts}
    classes = sorted(examination.data.classes, key=lambda name: -next(iter(counts.values())).get(name, 0))[
        :SHOWN_CLASSES
    ]
    values = {name: [found.get(one, 0) for one in classes] for name, found in counts.items()}
    chart = bars(classes, values, "Objects by class", ("class", "objects"), size=(11, 4), logarithmic=True)
    cut = (
        f"The {SHOWN_CLASSES} most frequent of {len(examination.data.classes)} classes."
        if len(examination.data.classes) > SHOWN_CLASSES
        else ""
    )
    return [Figure(vector(chart), "Objects of each class", cut, wide=True)]


def _class_counts(part: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in part.objects:
        name = part.classes.get(one.record.get("category_id"))
        if name is not None and not one.crowd:
            found[name] = found.get(name, 0) + 1
    return found


def _chart(svg: str, alt: str) -> Figure:
    return Figure(vector(svg), alt)

"""The report of an examination as one HTML page: findings with thumbnails, advice, and charts of the dataset."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from htc.checks.examine import Examination, advised_input
from htc.checks.findings import SEVERITIES, Box, Finding, Severity
from htc.checks.kinds import FINDING_KINDS
from htc.checks.repair import RepairedFile
from htc.checks.report import flags, verdict
from htc.data.advice import ANCHOR_SCALES, anchor_coverage
from htc.data.image_pages import file_and_page
from htc.data.images import VISIBLE, read_image
from htc.errors import DataError
from htc.visual.charts import bar_chart
from htc.visual.page import (
    Cell,
    Fact,
    Facts,
    Figure,
    Gallery,
    Notice,
    Page,
    PagePart,
    PageSection,
    PageTable,
    Text,
    Tone,
    pixels,
    vector,
    write_page,
)

WIDTH, HEIGHT = 440, 330
AROUND = 1.2
"""Context around the instance, as a fraction of its extent."""
LEAST = 48
"""Minimum side in pixels of the image region in a thumbnail: less would be unrecognizable."""
GROUND = (128, 128, 128)
BOX, OUTLINE, HALO = (255, 176, 0), (0, 190, 255), (20, 20, 20)
"""RGB of the box, the polygons, and the dark line below both that keeps them visible on any background."""


def thumbnail(finding: Finding) -> UInt8[np.ndarray, "H W 3"] | None:
    """Draw the image of a finding, cropped to its instance; None without a readable image."""
    if finding.image_path is None or not file_and_page(finding.image_path)[0].is_file():
        return None
    try:
        image = read_image(finding.image_path, intensity=VISIBLE)
    except DataError:
        return None
    window = _window(_extent(finding), image.shape[0], image.shape[1])
    canvas, scale = _cut(image, window)
    move = np.array(window[:2], np.float64)
    for ring in finding.rings:
        _draw((np.array(ring[: len(ring) // 2 * 2]).reshape(-1, 2) - move) * scale, canvas, OUTLINE)
    if finding.box is not None:
        left, top, right, bottom = finding.box
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        _draw((corners - move) * scale, canvas, BOX)
    return canvas


def _extent(finding: Finding) -> Box | None:
    """Return the region (xyxy) that contains the box and the outlines; None without both."""
    points = [np.array(ring[: len(ring) // 2 * 2]).reshape(-1, 2) for ring in finding.rings if len(ring) >= 2]
    if finding.box is not None:
        points.append(np.array(finding.box).reshape(-1, 2))
    if not points:
        return None
    both = np.concatenate(points)
    (left, top), (right, bottom) = both.min(0).tolist(), both.max(0).tolist()
    return left, top, right, bottom


def _window(extent: Box | None, height: int, width: int) -> Box:
    """Return the region to show (xyxy), which may extend a little beyond the border of the image."""
    if extent is None:
        return 0.0, 0.0, float(width), float(height)
    # Limit the region, so that the image stays visible if an outline lies far outside.
    left, right = max(extent[0], -0.2 * width), min(extent[2], 1.2 * width)
    top, bottom = max(extent[1], -0.2 * height), min(extent[3], 1.2 * height)
    if right <= left or bottom <= top:
        return 0.0, 0.0, float(width), float(height)
    w = max(LEAST, right - left, min((right - left) * (1 + AROUND), width))
    h = max(LEAST, bottom - top, min((bottom - top) * (1 + AROUND), height))
    w, h = max(w, h * WIDTH / HEIGHT), max(h, w * HEIGHT / WIDTH)
    x, y = (left + right - w) / 2, (top + bottom - h) / 2
    return _moved_inside(x, y, w, h, height, width)


def _moved_inside(x: float, y: float, w: float, h: float, height: int, width: int) -> Box:
    """Move the window into the image as far as possible."""
    x = min(max(x, 0.0), width - w) if w < width else (width - w) / 2
    y = min(max(y, 0.0), height - h) if h < height else (height - h) / 2
    return x, y, x + w, y + h


def _cut(image: UInt8[np.ndarray, "H W 3"], window: Box) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """Crop the window from the image (gray outside of the image) and return it with its scale."""
    left, top, right, bottom = window
    scale = min(WIDTH / (right - left), HEIGHT / (bottom - top))
    # `warpAffine` does not average, so a large image is reduced first.
    reduced = min(1.0, scale)
    if reduced < 1:
        image = cv2.resize(image, None, fx=reduced, fy=reduced, interpolation=cv2.INTER_AREA)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    matrix = np.array([[scale / reduced, 0, -left * scale], [0, scale / reduced, -top * scale]])
    return cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=GROUND
    ), scale


def _draw(points: Float[np.ndarray, "P 2"], canvas: UInt8[np.ndarray, "H W 3"], color: tuple[int, int, int]) -> None:
    """Draw a closed line of two pixels with a dark rim."""
    line = [(points.clip(-10_000, 10_000) * 16).round().astype(np.int32)]
    cv2.polylines(canvas, line, True, HALO, 4, cv2.LINE_AA, 4)
    cv2.polylines(canvas, line, True, color, 2, cv2.LINE_AA, 4)


SHOWN_IMAGES, SHOWN_ROWS, SHOWN_CLASSES = 6, 20, 40
TONES: dict[Severity, Tone] = {"error": "bad", "warning": "warning", "note": "plain"}
TITLES: dict[Severity, str] = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def write_examination(path: Path, examination: Examination, fixed: RepairedFile | None = None) -> None:
    """Write the page of an examination; raises `OutputError`."""
    write_page(path, page_of(examination, fixed))


def page_of(examination: Examination, fixed: RepairedFile | None = None) -> Page:
    """Build the page; `fixed` is the file that `--fix` wrote."""
    files = " and ".join(part.file.name for part in examination.parts)
    sections = [_summary(examination, fixed)]
    sections += [_severity(examination, severity) for severity in SEVERITIES if examination.count(severity)]
    sections += [_advice(examination), _data(examination)]
    return Page(
        f"Dataset report: {files}",
        sections,
        verdict(examination),
        "Written by htc doctor. All codes are explained in docs/reference/doctor-codes.md of hybrid-task-cascade.",
    )


def _summary(examination: Examination, fixed: RepairedFile | None) -> PageSection:
    facts = [
        Fact(
            f"images{' in ' + part.name if part.name else ''}",
            f"{len(part.images):,}",
            f"{len(part.annotations):,} instances, {len(part.classes)} class{'' if len(part.classes) == 1 else 'es'}",
        )
        for part in examination.parts
    ]
    tones: dict[Severity, Tone] = {"error": "bad", "warning": "warning", "note": "plain"}
    for severity in SEVERITIES:
        count = examination.count(severity)
        facts.append(Fact(TITLES[severity].lower(), f"{count:,}", tone=tones[severity] if count else "good"))
    rows = [
        [
            FINDING_KINDS[code].severity,
            code,
            Cell(str(len(findings)), tone=TONES[FINDING_KINDS[code].severity]),
            FINDING_KINDS[code].title,
            _fix_text(findings),
        ]
        for code, findings in examination.by_code.items()
    ]
    parts: list[PagePart] = [Facts(facts)]
    if rows:
        parts.append(PageTable(("severity", "code", "findings", "problem", "--fix"), rows))
    else:
        parts.append(Notice("All checks passed.", "good"))
    if fixed is not None and fixed.file is not None:
        parts.append(Notice(f"{fixed.summary}. The examined file is unchanged.", "good", f"Corrected in {fixed.file}"))
    return PageSection("Summary", parts)


def _fix_text(findings: Sequence[Finding]) -> str:
    fixable = sum(bool(finding.edits) for finding in findings)
    return "" if not fixable else "corrects all" if fixable == len(findings) else f"corrects {fixable}"


def _severity(examination: Examination, severity: Severity) -> PageSection:
    """Build the section of a severity: for each kind of fault its reason, remedy, images and list."""
    parts: list[PagePart] = []
    for code, findings in examination.by_code.items():
        kind = FINDING_KINDS[code]
        if kind.severity != severity:
            continue
        parts.append(
            Notice(
                f"Why it matters: {kind.why}.\nWhat to do: {kind.remedy}.",
                TONES[severity],
                f"{kind.title} ({code}, {len(findings)})",
            )
        )
        figures = [figure for finding in _of_several_images(findings) if (figure := _figure(finding)) is not None]
        if figures:
            parts.append(Gallery(figures, least=220))
        if len(findings) > len(figures):
            parts.append(_list(findings))
    return PageSection(TITLES[severity], parts, "Boxes (orange) and outlines (blue) are drawn as annotated.")


def _of_several_images(findings: Sequence[Finding]) -> list[Finding]:
    """Return up to `SHOWN_IMAGES` findings: first one of each image, then others."""
    first = list({finding.image_path: finding for finding in reversed(findings)}.values())[::-1]
    chosen = {id(finding) for finding in first}
    return [*first, *(finding for finding in findings if id(finding) not in chosen)][:SHOWN_IMAGES]


def _figure(finding: Finding) -> Figure | None:
    image = thumbnail(finding)
    if image is None:
        return None
    fix = f" --fix: {finding.fixed_by}." if finding.edits else ""
    return Figure(pixels(image), f"{finding.location}: {finding.what}", f"{_where(finding)}: {finding.what}.{fix}")


def _list(findings: Sequence[Finding]) -> PageTable:
    fixable = any(finding.edits for finding in findings)
    columns = ("where", "problem", "--fix") if fixable else ("where", "problem")
    rows = [
        [_where(finding), finding.what, finding.fixed_by if finding.edits else ""][: len(columns)]
        for finding in findings[:SHOWN_ROWS]
    ]
    more = len(findings) - SHOWN_ROWS
    return PageTable(columns, rows, f"{more} more in the JSON file (--json FILE)." if more > 0 else "")


def _where(finding: Finding) -> str:
    image = "" if finding.image_path is None else f", {finding.image_path.name}"
    return f"{finding.location}{image}"


def _advice(examination: Examination) -> PageSection:
    rows = [[flags(advice) or "no flag needed", advice.reason] for advice in examination.advice]
    return PageSection(
        "Advice",
        [PageTable(("flags of htc train", "reason"), rows)],
        "Settings that suit this dataset. htc train uses them by default if no preset is given.",
    )


def _data(examination: Examination) -> PageSection:
    """Build the section with charts of instance sizes, instances per image, anchors and classes."""
    data = examination.data
    if not len(data.boxes):
        return PageSection("Dataset", [Text("The dataset has no usable instances.")])
    edges = [0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, np.inf]
    sizes = np.histogram(data.sides, edges)[0]
    names = [f"{low:g}–{high:g}" if high < np.inf else f"{low:g}+" for low, high in pairwise(edges)]
    size = advised_input(data)
    covered = [100 * anchor_coverage(data, size, scale) for scale in ANCHOR_SCALES]
    charts = [
        _chart(
            bar_chart(names, sizes.tolist(), "Instances by size", ("side in pixels of the image", "instances")),
            "Histogram of instance sizes",
        ),
        _chart(_instances_chart(data.counts), "Histogram of instances per image"),
        _chart(
            bar_chart(
                [f"{scale:g}" for scale in ANCHOR_SCALES],
                covered,
                "Recall of the anchors at IoU 0.5",
                ("rpn.anchor_scale", "% of the instances"),
            ),
            "Recall of the anchors of each scale at IoU 0.5",
        ),
    ]
    return PageSection(
        "Dataset",
        [Gallery(charts, least=340), *_classes(examination)],
        f"The training set. The recall of the anchors is computed at the advised short edge of {size.short_edge} px.",
    )


def _instances_chart(counts: np.ndarray) -> str:
    top = int(counts.max(initial=0))
    step = max(1, -(-(top + 1) // 15))
    images = np.bincount(counts // step, minlength=top // step + 1)
    names = [str(low * step) if step == 1 else f"{low * step}–{low * step + step - 1}" for low in range(len(images))]
    return bar_chart(names, images.tolist(), "Images by number of instances", ("instances in an image", "images"))


def _classes(examination: Examination) -> list[PagePart]:
    """Draw the number of instances of each class in both parts."""
    if len(examination.data.classes) < 2:
        return []
    counts = {part.name or "instances": _class_counts(part) for part in examination.parts}
    classes = sorted(examination.data.classes, key=lambda name: -next(iter(counts.values())).get(name, 0))[
        :SHOWN_CLASSES
    ]
    values = {name: [of_part.get(one, 0) for one in classes] for name, of_part in counts.items()}
    chart = bar_chart(classes, values, "Instances by class", ("class", "instances"), size=(11, 4), logarithmic=True)
    cut = (
        f"The {SHOWN_CLASSES} most frequent of {len(examination.data.classes)} classes."
        if len(examination.data.classes) > SHOWN_CLASSES
        else ""
    )
    return [Figure(vector(chart), "Number of instances of each class", cut, wide=True)]


def _class_counts(part: Any) -> dict[str, int]:
    labels = part.table.labels
    counts = np.bincount(labels[~part.table.crowd & (labels >= 0)], minlength=len(part.classes))
    return {name: int(count) for name, count in zip(part.classes.values(), counts, strict=True) if count}


def _chart(svg: str, alt: str) -> Figure:
    return Figure(vector(svg), alt)

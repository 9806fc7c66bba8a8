"""An evaluation as one HTML page: the numbers, the curves behind them, what goes wrong and the images where most
goes wrong.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from htc.evaluation import KIND_NAMES
from htc.evaluation.coco import MetricValues
from htc.evaluation.comparison import Comparison
from htc.evaluation.diagnostics import CURVES, Diagnostics
from htc.evaluation.drawings import draw_errors
from htc.visual.charts import bar_chart, line_chart
from htc.visual.page import (
    Cell,
    Fact,
    Facts,
    Figure,
    Gallery,
    Page,
    PagePart,
    PageSection,
    PageTable,
    Text,
    pixels,
    vector,
)

MAX_CLASS_ROWS = 20
"""More make no readable matrix: then the most frequent confusions are listed."""
MOST_CONFUSIONS = 40
EXPLAINED = {
    "missed": "no result found the object, not even badly",
    "double": "the object was found already, by a result with a higher score",
    "badly outlined": "the right class, with IoU 0.1 to 0.5",
    "wrong class": "IoU 0.5 or more with an object of another class",
    "wrong class and outline": "IoU 0.1 to 0.5 with an object of another class",
    "background": "nothing is there",
}


def report_page(
    title: str,
    metrics: MetricValues,
    found: Diagnostics,
    comparison: Comparison,
    images: Mapping[int | str, Path] | None = None,
    most_images: int = 12,
) -> Page:
    """The page. `images` says where the image of an image id lies; without it no image is drawn.

    Raises `DataError` if an image that is to be drawn cannot be read.
    """
    objects = sum(not item["iscrowd"] for item in comparison.objects)
    sections = [
        PageSection(
            "Numbers", _numbers(metrics, found), "How good the results are, by COCO's measures; AP and F1 in per cent."
        ),
        PageSection(
            "Curves",
            [Gallery(_curves(found), 420)],
            "How much is found at what precision, how exact the outlines are, and whether scores can be believed.",
        ),
        PageSection(
            "Errors by kind",
            _errors(found),
            f"What goes wrong among results with a score of at least {found.best.threshold:.2f}, where F1 is best.",
        ),
        PageSection(
            "Classes",
            [_classes(metrics, found, comparison)],
            "The score threshold is that of the class's best F1, at IoU 0.5.",
        ),
        PageSection("Confusion", _confusion(found), _confusion_lead(found)),
    ]
    if images is not None:
        drawn = [_worst(place, found, comparison, images) for place in range(min(most_images, len(found.images)))]
        shown = [figure for figure in drawn if figure is not None]
        lead = (
            "Lowest F1 first. Vermilion: missed objects on the left, wrong results on the right. Blue: "
            "right. Grey: "
            "crowds, and results in them."
        )
        sections.append(
            PageSection("Worst images", [Gallery(shown, 560) if shown else Text("Every image is without error.")], lead)
        )
    subtitle = f"{len(comparison.image_ids)} images, {objects} objects, {len(comparison.found)} results"
    return Page(title, sections, subtitle, "AP, IoU and F1: see docs/evaluation.md of hybrid-task-cascade.")


def _numbers(metrics: MetricValues, found: Diagnostics) -> list[PagePart]:
    main = "segm" if "segm" in metrics else "bbox"
    calibrated = found.calibration.error
    facts = [
        Fact(f"AP of {KIND_NAMES[kind]}", _percent(metrics[kind]["AP"]), "mean over IoU 0.50 to 0.95")
        for kind in KIND_NAMES
        if kind in metrics
    ]
    facts.append(Fact("AP50", _percent(metrics[main]["AP50"]), "IoU 0.5 is enough"))
    if found.boundary is not None:
        facts.append(Fact("boundary AP", _percent(found.boundary["AP"]), "outlines count"))
    facts.append(
        Fact(
            "best F1",
            _percent(found.best.f1),
            f"keeping scores from {found.best.threshold:.2f}" if found.best.threshold >= 0 else "no objects",
        )
    )
    note = "mean distance of score and share that is right"
    facts.append(Fact("calibration error", _percent(calibrated), note, "warning" if calibrated > 0.15 else "plain"))
    names = list(metrics[main])
    rows = [
        [KIND_NAMES[kind], *(_number(metrics[kind][name]) for name in names)] for kind in KIND_NAMES if kind in metrics
    ]
    if found.boundary is not None:
        rows.append(["boundaries", *(_number(found.boundary[name]) for name in names)])
    return [
        Facts(facts),
        PageTable(["", *names], rows, "Per cent. s, m, l: objects below 32² pixels, up to 96², above.", ".1f"),
    ]


def _curves(found: Diagnostics) -> list[Figure]:
    recall = [place / 100 for place in range(101)]
    whole = (0.0, 1.0, 0.0, 1.02)
    precision = {
        f"{KIND_NAMES[kind]}, IoU {iou:.2f}": (recall, _defined(curves.precision[iou]))
        for kind, curves in found.curves.items()
        for iou in CURVES
    }
    by_iou = {
        KIND_NAMES[kind]: (curves.thresholds, _defined(curves.ap["all"])) for kind, curves in found.curves.items()
    }
    own = found.curves[found.by]
    by_size = {
        name: (own.thresholds, _defined(values))
        for name, values in own.ap.items()
        if name != "all" and max(values) >= 0
    }
    bins = [one for one in found.calibration.bins if one.count]
    reliability = {"share that is right": ([one.score for one in bins], [one.right for one in bins])}
    counts = [one.count for one in found.calibration.bins]
    tenths = [f"{place / 10:.1f}" for place in range(10)]
    masks = KIND_NAMES[found.by]
    charts = {
        "Precision over recall": line_chart(precision, "Precision over recall", ("recall", "precision"), limits=whole),
        "AP by IoU threshold": line_chart(
            by_iou, "AP by IoU threshold", ("IoU that counts as found", "AP"), limits=(0.5, 0.95, 0, 1.02)
        ),
        "AP by size": line_chart(
            by_size,
            f"AP of {masks} by size of the object",
            ("IoU that counts as found", "AP"),
            limits=(0.5, 0.95, 0, 1.02),
        ),
        "Reliability": line_chart(
            reliability,
            "Are scores what they say?",
            ("score", "share right at IoU 0.5"),
            limits=(0, 1, 0, 1.02),
            diagonal=True,
        ),
        "Scores": bar_chart(tenths, counts, "Results by score", ("score from", "results"), logarithmic=True),
    }
    captions = {"Reliability": "Below the dashed line the model is surer than it should be, above it less sure."}
    return [Figure(vector(svg), name, captions.get(name, "")) for name, svg in charts.items()]


def _errors(found: Diagnostics) -> list[PagePart]:
    names = sorted(found.errors, key=lambda name: -found.errors[name].cost)
    costs = [100 * max(found.errors[name].cost, 0.0) for name in names]
    chart = bar_chart(names, costs, "What correcting each kind would gain", ("AP50 points", ""), horizontal=True)
    rows = [[name, found.errors[name].count, _number(found.errors[name].cost), EXPLAINED[name]] for name in names]
    table = PageTable(["kind", "number", "AP50 points", "what it is"], rows, number_format=".1f")
    note = (
        "The gains do not add up: one error hides another. Numbers count the results that are kept; gains consider "
        "every result, whatever its score."
    )
    return [Gallery([Figure(vector(chart), "Cost of each kind of error")], 420), table, Text(note)]


def _classes(metrics: MetricValues, found: Diagnostics, comparison: Comparison) -> PageTable:
    kinds = [kind for kind in KIND_NAMES if kind in metrics]
    labels = [item["category_id"] for item in comparison.objects if not item["iscrowd"]]
    rows = []
    for category, name in comparison.categories:
        point = found.best_by_class[name]
        ap = [_number(metrics["per_class"][name][kind]) for kind in kinds]
        threshold = None if point.threshold < 0 else Cell(f"{point.threshold:.2f}")
        rows.append(
            [
                name,
                labels.count(category),
                *ap,
                threshold,
                _number(point.f1),
                _number(point.precision),
                _number(point.recall),
            ]
        )
    heads = [
        "class",
        "objects",
        *(f"AP of {KIND_NAMES[kind]}" for kind in kinds),
        "threshold",
        "F1",
        "precision",
        "recall",
    ]
    return PageTable(heads, rows, number_format=".1f")


def _confusion_lead(found: Diagnostics) -> str:
    return (
        f"Objects and results with a score of at least {found.best.threshold:.2f}, paired by IoU from 0.5 whatever "
        f"their classes."
    )


def _confusion(found: Diagnostics) -> list[PagePart]:
    names, matrix = [*found.classes, "background"], found.confusion
    if len(names) <= MAX_CLASS_ROWS + 1:
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        rows = [
            [
                name,
                *(
                    _confusion_cell(count, float(part), row, column, len(found.classes))
                    for column, (count, part) in enumerate(zip(counts, parts, strict=True))
                ),
            ]
            for row, (name, counts, parts) in enumerate(zip(names, matrix.tolist(), share, strict=True))
        ]
        return [
            PageTable(
                ["annotated as, found as", *found.classes, "not found"],
                rows,
                "Last row: results where nothing is annotated.",
            )
        ]
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [np.unravel_index(place, off.shape) for place in order]
    rows = [
        [names[row], "not found" if column == len(found.classes) else names[column], int(off[row, column])]
        for row, column in pairs
        if off[row, column]
    ]
    return [
        PageTable(
            ["annotated as", "found as", "number"],
            rows,
            f"The {len(rows)} most frequent; background: nothing is annotated there.",
        )
    ]


def _confusion_cell(count: int, share: float, row: int, column: int, classes: int) -> Cell | None:
    """Right on the diagonal; what is neither annotated nor found cannot be counted."""
    return (
        None
        if row == column == classes
        else Cell(str(count), share, "good" if row == column else "bad" if count else "plain")
    )


def _worst(place: int, found: Diagnostics, comparison: Comparison, images: Mapping[int | str, Path]) -> Figure | None:
    """The image at that place from the worst; None for one without error."""
    one = found.images[place]
    if not one.wrong + one.missed:
        return None
    matched = next(item for item in found.matched if comparison.image_ids[item.image] == one.image_id)
    path = images[one.image_id]
    drawing = draw_errors(path, comparison, matched, found.best.threshold)
    caption = f"{path.name}: F1 {_percent(one.f1)}; {one.found} found, {one.missed} missed, {one.wrong} wrong"
    return Figure(pixels(drawing), caption, caption)


def _defined(values: Any) -> list[float]:
    return [value if value >= 0 else float("nan") for value in values]


def _number(value: float) -> float | None:
    return None if value < 0 else 100 * value


def _percent(value: float) -> str:
    return "–" if value < 0 else f"{100 * value:.1f}"

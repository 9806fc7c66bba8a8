"""The report of an evaluation as one HTML page: metrics, curves, errors by kind, confusion, and the worst images."""

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
"""Maximum number of classes in the confusion matrix; for more, the most frequent confusions are listed."""
MOST_CONFUSIONS = 40
EXPLAINED = {
    "missed": "an instance that no result matches, not even with a wrong class or outline",
    "double": "a second result for an instance that a result with a higher score already matches",
    "badly outlined": "correct class, but IoU only 0.1 to 0.5",
    "wrong class": "IoU 0.5 or more with an instance of another class",
    "wrong class and outline": "IoU 0.1 to 0.5 with an instance of another class",
    "background": "IoU below 0.1 with every instance",
}


def report_page(
    title: str,
    metrics: MetricValues,
    diagnostics: Diagnostics,
    comparison: Comparison,
    images: Mapping[int | str, Path] | None = None,
    most_images: int = 12,
) -> Page:
    """Build the page. `images` maps image ids to files; without it the page has no images.

    Raises `DataError` if an image to draw cannot be read.
    """
    objects = sum(not item["iscrowd"] for item in comparison.objects)
    sections = [
        PageSection("Metrics", _metrics(metrics, diagnostics), "COCO's metrics of the results; AP and F1 in per cent."),
        PageSection(
            "Curves",
            [Gallery(_curves(diagnostics), 420)],
            "Precision over recall, AP by IoU threshold and by size, and the calibration of the scores.",
        ),
        PageSection(
            "Errors by kind",
            _errors(diagnostics),
            f"Errors of the results with a score of at least {diagnostics.best.threshold:.2f}, the threshold with the "
            f"best F1 over all classes.",
        ),
        PageSection(
            "Classes",
            [_classes(metrics, diagnostics, comparison)],
            "Threshold, F1, precision and recall of each class at its best F1, at IoU 0.5.",
        ),
        PageSection("Confusion", _confusion(diagnostics), _confusion_lead(diagnostics)),
    ]
    if images is not None:
        drawn = [
            _worst(rank, diagnostics, comparison, images) for rank in range(min(most_images, len(diagnostics.images)))
        ]
        shown = [figure for figure in drawn if figure is not None]
        lead = (
            "Images by ascending F1; ground truth on the left, results on the right. Blue: matched instances and true "
            "positives. Vermilion: missed instances (left) and false positives (right). Gray: crowds, and results in "
            "them."
        )
        sections.append(
            PageSection("Worst images", [Gallery(shown, 560) if shown else Text("No image has an error.")], lead)
        )
    subtitle = f"{len(comparison.image_ids)} images, {objects} instances, {len(comparison.results)} results"
    return Page(title, sections, subtitle, "AP, IoU and F1: see docs/guides/evaluation.md of hybrid-task-cascade.")


def _metrics(metrics: MetricValues, diagnostics: Diagnostics) -> list[PagePart]:
    main = "segm" if "segm" in metrics else "bbox"
    calibrated = diagnostics.calibration.error
    facts = [
        Fact(f"AP of {KIND_NAMES[kind]}", _percent(metrics[kind]["AP"]), "mean over IoU 0.50 to 0.95")
        for kind in KIND_NAMES
        if kind in metrics
    ]
    facts.append(Fact("AP50", _percent(metrics[main]["AP50"]), "AP at IoU 0.50"))
    if diagnostics.boundary is not None:
        facts.append(Fact("boundary AP", _percent(diagnostics.boundary["AP"]), "AP by the IoU of outlines"))
    facts.append(
        Fact(
            "best F1",
            _percent(diagnostics.best.f1),
            f"at score threshold {diagnostics.best.threshold:.2f}"
            if diagnostics.best.threshold >= 0
            else "no instances",
        )
    )
    note = "mean difference between score and precision"
    facts.append(Fact("calibration error", _percent(calibrated), note, "warning" if calibrated > 0.15 else "plain"))
    names = list(metrics[main])
    rows = [
        [KIND_NAMES[kind], *(_number(metrics[kind][name]) for name in names)] for kind in KIND_NAMES if kind in metrics
    ]
    if diagnostics.boundary is not None:
        rows.append(["boundaries", *(_number(diagnostics.boundary[name]) for name in names)])
    return [
        Facts(facts),
        PageTable(["", *names], rows, "Per cent. s, m, l: instances below 32², up to 96² and above 96² pixels.", ".1f"),
    ]


def _curves(diagnostics: Diagnostics) -> list[Figure]:
    recall = [hundredth / 100 for hundredth in range(101)]
    whole = (0.0, 1.0, 0.0, 1.02)
    precision = {
        f"{KIND_NAMES[kind]}, IoU {iou:.2f}": (recall, _defined(curves.precision[iou]))
        for kind, curves in diagnostics.curves.items()
        for iou in CURVES
    }
    by_iou = {
        KIND_NAMES[kind]: (curves.thresholds, _defined(curves.ap["all"])) for kind, curves in diagnostics.curves.items()
    }
    own = diagnostics.curves[diagnostics.by]
    by_size = {
        name: (own.thresholds, _defined(values))
        for name, values in own.ap.items()
        if name != "all" and max(values) >= 0
    }
    bins = [one for one in diagnostics.calibration.bins if one.count]
    reliability = {"share of true positives": ([one.score for one in bins], [one.right for one in bins])}
    counts = [one.count for one in diagnostics.calibration.bins]
    tenths = [f"{tenth / 10:.1f}" for tenth in range(10)]
    masks = KIND_NAMES[diagnostics.by]
    charts = {
        "Precision over recall": line_chart(precision, "Precision over recall", ("recall", "precision"), limits=whole),
        "AP by IoU threshold": line_chart(
            by_iou, "AP by IoU threshold", ("IoU threshold", "AP"), limits=(0.5, 0.95, 0, 1.02)
        ),
        "AP by size": line_chart(
            by_size,
            f"AP of {masks} by size of the instance",
            ("IoU threshold", "AP"),
            limits=(0.5, 0.95, 0, 1.02),
        ),
        "Reliability": line_chart(
            reliability,
            "Reliability of the scores",
            ("score", "precision at IoU 0.5"),
            limits=(0, 1, 0, 1.02),
            diagonal=True,
        ),
        "Scores": bar_chart(tenths, counts, "Results by score", ("score from", "results"), logarithmic=True),
    }
    captions = {"Reliability": "Below the dashed line the scores are too high, above it too low."}
    return [Figure(vector(svg), name, captions.get(name, "")) for name, svg in charts.items()]


def _errors(diagnostics: Diagnostics) -> list[PagePart]:
    names = sorted(diagnostics.errors, key=lambda name: -diagnostics.errors[name].cost)
    costs = [100 * max(diagnostics.errors[name].cost, 0.0) for name in names]
    chart = bar_chart(names, costs, "Gain in AP50 from correcting each kind", ("AP50 points", ""), horizontal=True)
    rows = [
        [name, diagnostics.errors[name].count, _number(diagnostics.errors[name].cost), EXPLAINED[name]]
        for name in names
    ]
    table = PageTable(["kind", "number", "AP50 points", "definition"], rows, number_format=".1f")
    note = (
        "The gains do not add up, since one error can hide another. The numbers count results above the threshold; the "
        "gains consider every result, at any score."
    )
    return [Gallery([Figure(vector(chart), "Gain in AP50 from correcting each kind of error")], 420), table, Text(note)]


def _classes(metrics: MetricValues, diagnostics: Diagnostics, comparison: Comparison) -> PageTable:
    kinds = [kind for kind in KIND_NAMES if kind in metrics]
    labels = [item["category_id"] for item in comparison.objects if not item["iscrowd"]]
    rows = []
    for category, name in comparison.categories:
        point = diagnostics.best_by_class[name]
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
        "instances",
        *(f"AP of {KIND_NAMES[kind]}" for kind in kinds),
        "threshold",
        "F1",
        "precision",
        "recall",
    ]
    return PageTable(heads, rows, number_format=".1f")


def _confusion_lead(diagnostics: Diagnostics) -> str:
    return (
        f"Instances and results with a score of at least {diagnostics.best.threshold:.2f}, paired by IoU of at least "
        f"0.5, regardless of their classes."
    )


def _confusion(diagnostics: Diagnostics) -> list[PagePart]:
    names, matrix = [*diagnostics.classes, "background"], diagnostics.confusion
    if len(names) <= MAX_CLASS_ROWS + 1:
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        rows = [
            [
                name,
                *(
                    _confusion_cell(count, float(part), row, column, len(diagnostics.classes))
                    for column, (count, part) in enumerate(zip(counts, parts, strict=True))
                ),
            ]
            for row, (name, counts, parts) in enumerate(zip(names, matrix.tolist(), share, strict=True))
        ]
        return [
            PageTable(
                ["annotated as, predicted as", *diagnostics.classes, "missed"],
                rows,
                "Last row: results without a ground-truth instance.",
            )
        ]
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [np.unravel_index(index, off.shape) for index in order]
    rows = [
        [names[row], "missed" if column == len(diagnostics.classes) else names[column], int(off[row, column])]
        for row, column in pairs
        if off[row, column]
    ]
    return [
        PageTable(
            ["annotated as", "predicted as", "number"],
            rows,
            f"The {len(rows)} most frequent confusions; background: no ground-truth instance there.",
        )
    ]


def _confusion_cell(count: int, share: float, row: int, column: int, classes: int) -> Cell | None:
    """Return a cell of the matrix: good on the diagonal, else bad; None where neither class exists."""
    return (
        None
        if row == column == classes
        else Cell(str(count), share, "good" if row == column else "bad" if count else "plain")
    )


def _worst(
    rank: int, diagnostics: Diagnostics, comparison: Comparison, images: Mapping[int | str, Path]
) -> Figure | None:
    """Draw the image at this rank, from the worst (0); None if it has no error."""
    one = diagnostics.images[rank]
    if not one.wrong + one.missed:
        return None
    matched = next(item for item in diagnostics.matched if comparison.image_ids[item.image] == one.image_id)
    path = images[one.image_id]
    drawing = draw_errors(path, comparison, matched, diagnostics.best.threshold)
    caption = (
        f"{path.name}: F1 {_percent(one.f1)}; {one.found} true positives, {one.wrong} false positives, "
        f"{one.missed} missed"
    )
    return Figure(pixels(drawing), caption, caption)


def _defined(values: Any) -> list[float]:
    return [value if value >= 0 else float("nan") for value in values]


def _number(value: float) -> float | None:
    return None if value < 0 else 100 * value


def _percent(value: float) -> str:
    return "–" if value < 0 else f"{100 * value:.1f}"

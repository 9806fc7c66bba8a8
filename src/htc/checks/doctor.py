"""`htc.doctor`: find the faults of a dataset, and correct those that can be corrected safely."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Never

from htc.checks.examine import COCO_STUFF, Examination, Request, examine, read_request
from htc.checks.findings import SEVERITIES, Finding
from htc.checks.kinds import FINDING_KINDS
from htc.checks.page import write_examination
from htc.checks.repair import RepairedFile, write_repaired
from htc.checks.report import report_lines, to_json, verdict
from htc.config import Inference
from htc.data.dataset import Dataset
from htc.data.formats.layouts import locate_splits
from htc.data.formats.map_rules import AUTO
from htc.errors import ConfigError
from htc.extras import require
from htc.files import optional_path
from htc.keywords import unknown_option
from htc.progress import ProgressOption, reporting
from htc.run_folders import require_new_file


@dataclass(frozen=True, repr=False)
class DoctorReport:
    """The result of `htc.doctor`; `print(report)` prints the report of `htc doctor`.

    Example:
        >>> report = htc.doctor("my_data")
        >>> report.ok
        False
        >>> report.counts
        {'error': 0, 'warning': 2, 'note': 1}
        >>> [(finding.code, finding.what) for finding in report.findings][:1]
        [('box-empty', 'its box is 0 x 12 pixels')]
    """

    examination: Examination
    fixed: RepairedFile | None = None
    """The corrected annotation file; None without `fix`."""

    @property
    def ok(self) -> bool:
        """Whether there are neither errors nor warnings; notes do not count."""
        return not self.examination.faulty

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every fault, by descending severity: `code`, `what`, `file`, `image`, `annotation`, ..."""
        return self.examination.findings

    @property
    def counts(self) -> dict[str, int]:
        """Findings by severity: `error`, `warning`, `note`."""
        counts = Counter(FINDING_KINDS[finding.code].severity for finding in self.findings)
        return {severity: counts[severity] for severity in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `htc doctor --json`."""
        return to_json(self.examination, self.fixed)

    def __str__(self) -> str:
        return "\n".join(report_lines(self.examination))

    def __repr__(self) -> str:
        return f"DoctorReport({verdict(self.examination)})"


def doctor(
    data: str | Path | Dataset | Mapping[str, Dataset],
    images: str | Path | None = None,
    *,
    semantic: str | Path | None = None,
    semantic_classes: int = COCO_STUFF,
    val_annotations: str | Path | None = None,
    val_images: str | Path | None = None,
    label_maps: str = AUTO,
    coco_holes: Literal["on", "off"] = "on",
    max_detections: int = Inference().max_detections,
    fix: str | Path | None = None,
    html: str | Path | None = None,
    progress: ProgressOption = True,
    **unknown: Never,
) -> DoctorReport:
    """Examine a dataset and report every fault with its file, image and annotation, why it matters and what to do.

    Args:
        data: the folder of a dataset in any format that `htc.train` takes, or a COCO annotation file (then with
            `images`), an `htc.Dataset`, or a dictionary of datasets with the keys "train" and "val".
        images: the folder of the images of an annotation file.
        semantic: the folder of PNG semantic maps of the training images.
        semantic_classes: number of classes in the maps, whose values are 0 to `semantic_classes` - 1, or 255 (ignored).
        val_annotations: the annotation file of the validation set, which is examined and compared with the training
            set.
        val_images: the folder of the validation images.
        label_maps: how label maps are read, as in `htc.train`.
        coco_holes: whether polygons inside others are holes, as in `htc.train`.
        max_detections: the maximum number of detections of an image that the model will have.
        fix: write the annotations with all safe corrections to this new file.
        html: write a page with images of the findings to this new file.
        progress: `True` shows a bar, `False` nothing; a function is called with (done, total, "").

    Raises:
        DataError: an annotation file or a folder cannot be read at all.
        ConfigError: options conflict with each other.
        OutputError: a file cannot be written, or exists already.
        InstallationError: a page needs the extra `evaluate`, which is not installed.
        TypeError: an option does not exist; the message names the nearest.

    Example:
        >>> report = htc.doctor("annotations/train.json", "images", fix="annotations/train_fixed.json")
        >>> print(report)
    """
    if unknown:
        raise unknown_option(doctor, unknown)
    for target, name in ((fix, "fix"), (html, "html")):
        if target is not None:
            require_new_file(Path(target), name)
    if html is not None:
        require("evaluate", "a page")
    with ExitStack() as stack:
        options = {
            "semantic": optional_path(semantic),
            "semantic_classes": semantic_classes,
            "max_detections": max_detections,
            "holes": coco_holes != "off",
        }
        if isinstance(data, str | Path):
            validation = {"val_annotations": optional_path(val_annotations), "val_images": optional_path(val_images)}
            request = read_request(Path(data), optional_path(images), label_maps=label_maps, **validation, **options)
        else:
            for name, value in {"images": images, "val_annotations": val_annotations, "val_images": val_images}.items():
                if value is not None:
                    raise ConfigError(
                        f"{name} belongs to annotation files: pass datasets as {{'train': ..., 'val': ...}}"
                    )
            if fix is not None:
                raise ConfigError("fix corrects an annotation file: write the dataset with its `save` method first")
            request = _request_of_datasets(data, stack, options)
        report_progress = stack.enter_context(reporting(progress, "doctor"))
        examination = examine(request, lambda done, total: report_progress(done, total, ""))
        fixed = None if fix is None else write_repaired(request, Path(fix))
        if html is not None:
            write_examination(Path(html), examination, fixed)
    return DoctorReport(examination, fixed)


def _request_of_datasets(
    data: Dataset | Mapping[str, Dataset], stack: ExitStack, options: Mapping[str, Any]
) -> Request:
    """Build the request for datasets built in Python; they are written as COCO files, which `stack` removes."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="htc-doctor-")))
    splits = locate_splits(data=data, converted=folder)
    return read_request(
        splits.train_annotations,
        splits.train_images,
        val_annotations=splits.val_annotations,
        val_images=splits.val_images,
        **options,
    )

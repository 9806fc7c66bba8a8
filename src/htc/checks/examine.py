"""The examination of a dataset: its folder, every check of every part, and advice for a configuration."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from htc.checks.balance import BALANCE_CHECKS, crowded_images, statistics, tiny_objects
from htc.checks.boxes import BOX_CHECKS
from htc.checks.findings import SEVERITIES, Finding, Severity, named
from htc.checks.images import IMAGE_CHECKS, Content, copies, damaged, leaks, read_contents
from htc.checks.kinds import FINDING_KINDS
from htc.checks.maps import map_files, map_values
from htc.checks.outlines import OUTLINE_CHECKS
from htc.checks.records import RECORD_CHECKS, SPLIT_CHECKS
from htc.config import Inference, Input
from htc.data.advice import Advice, Statistics, anchor_scale, input_size, max_detections, sampling
from htc.data.annotation_file import AnnotationFile, read_annotation_file
from htc.data.coco import Splits
from htc.data.formats.coco_exports import splits_of
from htc.data.formats.layouts import read_parts
from htc.data.formats.map_rules import AUTO, parse_map_options
from htc.data.formats.recognize import is_coco
from htc.errors import ConfigError, DataError
from htc.progress import Progress

UNKNOWN_SIZE = ("picture-size", "picture-turned", "picture-orientation")
ANNOTATION_CHECKS = (*RECORD_CHECKS, *OUTLINE_CHECKS, *BOX_CHECKS, *BALANCE_CHECKS)
"""The checks of one part that need no image file."""
PART_CHECKS = (*RECORD_CHECKS, *IMAGE_CHECKS, *OUTLINE_CHECKS, *BOX_CHECKS, *BALANCE_CHECKS)
"""The checks of one part that do not decode images: about a millisecond per image."""
IMAGES_URL = "https://images.cocodataset.org/zips"
ANNOTATIONS_URL = "https://images.cocodataset.org/annotations/annotations_trainval2017.zip"
STUFF = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip"
TRAIN, TRAIN_IMAGES = "annotations/instances_train2017.json", "train2017"
COCO = {
    TRAIN: f"unpack {ANNOTATIONS_URL} here",
    "annotations/instances_val2017.json": f"unpack {ANNOTATIONS_URL} here",
    TRAIN_IMAGES: f"118,287 images; unpack {IMAGES_URL}/train2017.zip here",
    "val2017": f"5,000 images; unpack {IMAGES_URL}/val2017.zip here",
}
"""The required parts of COCO's layout, and where to download them."""
MAPS_HINT = {
    "stuffthingmaps/train2017": f"unpack {STUFF} into stuffthingmaps",
    "stuffthingmaps/val2017": f"unpack {STUFF} into stuffthingmaps",
}
COCO_STUFF = 183
"""Classes of the semantic branch in mmdetection's presets."""


@dataclass(frozen=True)
class Root:
    """The parts of a dataset folder that can be examined, and findings about missing parts."""

    splits: Splits
    maps: Path | None
    """Semantic maps of the training images."""
    findings: tuple[Finding, ...]


def examine_root(root: Path) -> Root:
    """Find the parts of the COCO dataset in `root`. Raises `DataError` for an unknown layout and for COCO's layout
    without its training part; the message then lists the missing parts.
    """
    missing = [part for part in COCO if not (root / part).exists()]
    looks_like_coco = len(missing) < len(COCO)
    findings = tuple(_missing_parts(root, missing)) if looks_like_coco else ()
    if looks_like_coco and set(missing) & {TRAIN, TRAIN_IMAGES}:
        raise DataError(
            f"{root}: parts of COCO's layout are missing:" + "".join(f"\n  {finding.what}" for finding in findings)
        )
    splits = Splits(root / TRAIN, root / TRAIN_IMAGES, None, None) if looks_like_coco and missing else splits_of(root)
    maps = root / "stuffthingmaps" / splits.train_images.name
    return Root(splits, maps if maps.is_dir() else None, findings)


def _missing_parts(root: Path, missing: list[str]) -> Iterator[Finding]:
    """Report missing annotations and images, which are required, and missing COCO-Stuff maps, which are optional."""
    for part in missing:
        yield Finding("layout-missing", f"{part} is missing: {COCO[part]}", root)
    absent = [part for part in MAPS_HINT if not (root / part).is_dir()]
    if absent:
        what = (
            f"{' and '.join(absent)}: without COCO-Stuff's maps, semantic targets are derived from the instances; to "
            f"add the maps, {MAPS_HINT[absent[0]]}"
        )
        yield Finding("layout-optional", what, root)


@dataclass(frozen=True)
class Request:
    """The dataset to examine, and properties of the model to train."""

    train: AnnotationFile
    val: AnnotationFile | None = None
    semantic: Path | None = None
    semantic_classes: int = COCO_STUFF
    max_detections: int = Inference().max_detections
    found_before: tuple[Finding, ...] = ()
    """Findings about the folder as a whole."""


def read_request(
    annotations: Path,
    images: Path | None = None,
    *,
    val_annotations: Path | None = None,
    val_images: Path | None = None,
    semantic: Path | None = None,
    semantic_classes: int = COCO_STUFF,
    max_detections: int = Inference().max_detections,
    label_maps: str = AUTO,
    holes: bool = True,
) -> Request:
    """Read the annotation files to examine. Without `images`, `annotations` is the folder of a dataset, in any format
    that training takes; its validation set and semantic maps are included unless others are given.

    Raises `ConfigError` for paths that conflict and `DataError` for files and folders that cannot be used.
    """
    if (val_annotations is None) != (val_images is None):
        raise ConfigError("--val-annotations and --val-images belong together: pass both or neither")
    findings = ()
    parse_map_options(label_maps)
    if images is None:
        if annotations.is_file():
            raise ConfigError(f"IMAGES is missing: pass the folder of the images that {annotations} lists")
        if not annotations.is_dir():
            raise DataError(
                f"{annotations}: no such file or folder; pass a COCO annotation file or the folder of the dataset"
            )
        if not is_coco(annotations) and not any((annotations / part).exists() for part in COCO):
            parts, notes = read_parts(annotations, label_maps)
            if "train" not in parts:
                raise DataError(f"{annotations} has no training part; it has {', '.join(parts)}")
            given = None
            if val_annotations is not None and val_images is not None:
                given = read_annotation_file(val_annotations, val_images, "val", holes=holes)
            found = tuple(Finding("layout-converted", note, annotations) for note in notes)
            val = given or parts.get("val")
            train = parts["train"] if val is not None else replace(parts["train"], name="")
            return Request(train, val, semantic, semantic_classes, max_detections, found)
        root = examine_root(annotations)
        annotations, images, findings = root.splits.train_annotations, root.splits.train_images, root.findings
        if val_annotations is None:
            val_annotations, val_images = root.splits.val_annotations, root.splits.val_images
        semantic = semantic or root.maps
    train = read_annotation_file(annotations, images, "train" if val_annotations else "", holes=holes)
    val = (
        None
        if val_annotations is None or val_images is None
        else read_annotation_file(val_annotations, val_images, "val", holes=holes)
    )
    return Request(train, val, semantic, semantic_classes, max_detections, findings)


@dataclass(frozen=True)
class Examination:
    """The result of an examination, with the findings by descending severity."""

    parts: tuple[AnnotationFile, ...]
    findings: tuple[Finding, ...]
    data: Statistics
    """Statistics of the training set."""
    advice: tuple[Advice, ...]

    def count(self, severity: Severity) -> int:
        """Return the number of findings of this severity."""
        return sum(FINDING_KINDS[finding.code].severity == severity for finding in self.findings)

    @property
    def faulty(self) -> bool:
        """Whether there are errors or warnings; notes are not faults."""
        return any(FINDING_KINDS[finding.code].severity != "note" for finding in self.findings)

    @property
    def by_code(self) -> dict[str, list[Finding]]:
        """Findings by code, by descending severity."""
        of_code: dict[str, list[Finding]] = {}
        for finding in self.findings:
            of_code.setdefault(finding.code, []).append(finding)
        return of_code


def fast_findings(part: AnnotationFile, size: Input, max_detections: int) -> Iterator[Finding]:
    """Run the checks of one part that do not decode images, for a model with this input and maximum detections."""
    accepted = ("picture-floating",) if size.intensity.takes_floats else ()
    findings = [one for check in PART_CHECKS for one in named(part, check(part)) if one.code not in accepted]
    doubtful = {finding.image for finding in findings if finding.code in UNKNOWN_SIZE}
    for finding in findings:
        # If the size of an image differs from its record, every outline may be wrong, so no annotation is corrected.
        yield replace(finding, edits=()) if finding.annotation is not None and finding.image in doubtful else finding
    yield from named(part, crowded_images(part, max_detections))
    yield from named(part, tiny_objects(part, size))


def annotation_findings(part: AnnotationFile, size: Input, max_detections: int) -> Iterator[Finding]:
    """Run the checks of one part that need no image file."""
    for check in ANNOTATION_CHECKS:
        yield from named(part, check(part))
    yield from named(part, crowded_images(part, max_detections))
    yield from named(part, tiny_objects(part, size))


def fast_findings_between(train: AnnotationFile, val: AnnotationFile) -> Iterator[Finding]:
    """Run the checks between training and validation set that do not decode images."""
    for check in SPLIT_CHECKS:
        yield from named(val, check(train, val))


def examine(request: Request, progress: Progress | None = None) -> Examination:
    """Run all checks; every image is decoded once. Raises `DataError` only for missing folders."""
    data = statistics(request.train)
    size = advised_input(data)
    findings = list(request.found_before)
    contents: list[list[Content]] = []
    parts = (request.train,) if request.val is None else (request.train, request.val)
    for part in parts:
        of_part = list(fast_findings(part, size, request.max_detections))
        contents.append(read_contents(part, progress))
        unreadable = {one.image_path for one in of_part if one.code == "picture-unreadable"}
        decoded = (*damaged(contents[-1], unreadable), *copies(part, contents[-1]))
        findings += [*of_part, *named(part, decoded)]
    if request.val is not None:
        findings += fast_findings_between(request.train, request.val)
        findings += named(request.val, leaks(request.val, *contents))
    if request.semantic is not None:
        maps = (
            *map_files(request.train, request.semantic),
            *map_values(request.train, request.semantic, request.semantic_classes),
        )
        findings += named(request.train, maps)
    return Examination(parts, tuple(_sorted(findings)), data, advice(data))


def repairable(request: Request) -> Callable[[AnnotationFile], Iterable[Finding]]:
    """Return the checks whose findings can be corrected: those of one part that do not decode images."""
    size = advised_input(statistics(request.train))
    return lambda part: fast_findings(part, size, request.max_detections)


def advice(data: Statistics) -> tuple[Advice, ...]:
    """Derive advice on input size, anchors at that size, maximum detections and sampling."""
    return input_size(data), anchor_scale(data, advised_input(data)), max_detections(data), sampling(data)


def advised_input(data: Statistics) -> Input:
    """Return the input settings with the advised size."""
    return Input.model_validate({name.partition(".")[2]: value for name, value in input_size(data).settings.items()})


def _sorted(findings: list[Finding]) -> list[Finding]:
    """Sort by severity and by the order of the catalogue; a leak that two checks report is kept once."""
    order = {code: (SEVERITIES.index(kind.severity), index) for index, (code, kind) in enumerate(FINDING_KINDS.items())}
    seen: set[tuple[object, ...]] = set()
    unique = []
    for finding in findings:
        key = (finding.code, finding.file, finding.image, finding.annotation, finding.what)
        if key not in seen:
            seen.add(key)
            unique.append(finding)
    return sorted(unique, key=lambda finding: order[finding.code])

"""A whole examination: the folder of the dataset, every check of every part, and the advice for a configuration."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from htc.checks.balance import BALANCE_CHECKS, crowded_images, statistics, tiny_objects
from htc.checks.boxes import BOX_CHECKS
from htc.checks.findings import SEVERITIES, Finding, Severity
from htc.checks.images import IMAGE_CHECKS, Content, copies, damaged, leaks, read_contents
from htc.checks.kinds import FINDING_KINDS
from htc.checks.maps import map_files, map_values
from htc.checks.outlines import OUTLINE_CHECKS
from htc.checks.records import RECORD_CHECKS, SPLIT_CHECKS
from htc.config import Inference, Input
from htc.data.advice import Advice, Statistics, anchor_scale, input_size, max_detections, sampling
from htc.data.annotation_file import AnnotationFile, read_annotation_file
from htc.data.coco import Splits, find_splits
from htc.data.formats.layouts import is_coco, is_known
from htc.errors import ConfigError, DataError
from htc.progress import Progress

UNKNOWN_SIZE = ("picture-size", "picture-turned", "picture-orientation")
PART_CHECKS = (*RECORD_CHECKS, *IMAGE_CHECKS, *OUTLINE_CHECKS, *BOX_CHECKS, *BALANCE_CHECKS)
"""The checks of one part that need no pixels: about a millisecond per image."""
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
"""What COCO's layout must hold, and where it comes from."""
MAPS_HINT = {
    "stuffthingmaps/train2017": f"unpack {STUFF} into stuffthingmaps",
    "stuffthingmaps/val2017": f"unpack {STUFF} into stuffthingmaps",
}
COCO_STUFF = 183
"""Classes of the semantic branch in the original's presets."""


@dataclass(frozen=True)
class Root:
    """The parts of a data set that can be examined, and what is missing beside them."""

    splits: Splits
    maps: Path | None
    """Semantic maps of the training images."""
    findings: tuple[Finding, ...]


def examine_root(root: Path) -> Root:
    """The parts of `root`. Raises `DataError` for a folder of no known layout, one that must be converted first, or
    COCO's without training part; then it lists what is missing and where that goes.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder; give the COCO instance file, or the folder of the data set")
    missing = [place for place in COCO if not (root / place).exists()]
    looks_like_coco = len(missing) < len(COCO)
    if not is_coco(root) and not looks_like_coco and is_known(root):
        raise DataError(
            f"{root} is not COCO data; convert it first: htc convert {root} DST; then: htc doctor "
            f"DST/annotations/instances_train.json {root}"
        )
    findings = tuple(_missing_parts(root, missing)) if looks_like_coco else ()
    if looks_like_coco and set(missing) & {TRAIN, TRAIN_IMAGES}:
        raise DataError(
            f"{root} lacks parts of COCO's layout:" + "".join(f"\n  {finding.what}" for finding in findings)
        )
    splits = Splits(root / TRAIN, root / TRAIN_IMAGES, None, None) if looks_like_coco and missing else find_splits(root)
    maps = root / "stuffthingmaps" / splits.train_images.name
    return Root(splits, maps if maps.is_dir() else None, findings)


def _missing_parts(root: Path, missing: list[str]) -> Iterator[Finding]:
    """Annotations and images are needed, COCO-Stuff's maps are not."""
    for place in missing:
        yield Finding("layout-missing", f"{place} is not there: {COCO[place]}", root)
    absent = [place for place in MAPS_HINT if not (root / place).is_dir()]
    if absent:
        what = (
            f"{' and '.join(absent)}: without COCO-Stuff's maps semantic targets are derived from the "
            f"instances; to "
            f"have them, {MAPS_HINT[absent[0]]}"
        )
        yield Finding("layout-optional", what, root)


@dataclass(frozen=True)
class Request:
    """What is to be examined, and for which model."""

    train: AnnotationFile
    val: AnnotationFile | None = None
    semantic: Path | None = None
    semantic_classes: int = COCO_STUFF
    max_detections: int = Inference().max_detections
    found_before: tuple[Finding, ...] = ()
    """Of the folder as a whole."""


def read_request(
    annotations: Path,
    images: Path | None = None,
    *,
    val_annotations: Path | None = None,
    val_images: Path | None = None,
    semantic: Path | None = None,
    semantic_classes: int = COCO_STUFF,
    max_detections: int = Inference().max_detections,
) -> Request:
    """Read the annotation files of an examination. Without `images`, `annotations` is the folder of a dataset, whose
    validation part and semantic maps are included unless others are given.

    Raises `ConfigError` for paths that do not go together and `DataError` for files and folders that cannot be used.
    """
    if (val_annotations is None) != (val_images is None):
        raise ConfigError("--val-annotations and --val-images go together: give both or neither")
    findings = ()
    if images is None:
        if annotations.is_file():
            raise ConfigError(f"IMAGES is missing: name the folder of the images that {annotations} lists")
        root = examine_root(annotations)
        annotations, images, findings = root.splits.train_annotations, root.splits.train_images, root.findings
        if val_annotations is None:
            val_annotations, val_images = root.splits.val_annotations, root.splits.val_images
        semantic = semantic or root.maps
    train = read_annotation_file(annotations, images, "train" if val_annotations else "")
    val = (
        None
        if val_annotations is None or val_images is None
        else read_annotation_file(val_annotations, val_images, "val")
    )
    return Request(train, val, semantic, semantic_classes, max_detections, findings)


@dataclass(frozen=True)
class Examination:
    """What was found, worst first."""

    parts: tuple[AnnotationFile, ...]
    findings: tuple[Finding, ...]
    data: Statistics
    """Of the training part."""
    advice: tuple[Advice, ...]

    def count(self, severity: Severity) -> int:
        """Findings of that severity."""
        return sum(FINDING_KINDS[finding.code].severity == severity for finding in self.findings)

    @property
    def faulty(self) -> bool:
        """Whether there are errors or warnings; notes are no faults."""
        return any(FINDING_KINDS[finding.code].severity != "note" for finding in self.findings)

    @property
    def by_code(self) -> dict[str, list[Finding]]:
        """Findings of each kind, worst kinds first."""
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.code, []).append(finding)
        return found


def fast_findings(part: AnnotationFile, size: Input, max_detections: int) -> Iterator[Finding]:
    """Findings of one part that need no pixels, for a network with that input and as many detections per image."""
    found = [finding for check in PART_CHECKS for finding in check(part)]
    doubtful = {finding.image for finding in found if finding.code in UNKNOWN_SIZE}
    for finding in found:
        # On an image of another size every outline may be wrong, so none of its annotations is corrected.
        yield replace(finding, edits=()) if finding.annotation is not None and finding.image in doubtful else finding
    yield from crowded_images(part, max_detections)
    yield from tiny_objects(part, size)


def fast_findings_between(train: AnnotationFile, val: AnnotationFile) -> Iterator[Finding]:
    """Findings between two parts that need no decoded pixels."""
    for check in SPLIT_CHECKS:
        yield from check(train, val)


def examine(request: Request, progress: Progress | None = None) -> Examination:
    """Runs all checks; every image is decoded once. Raises `DataError` only for folders that are missing."""
    data = statistics(request.train)
    size = advised_input(data)
    findings = list(request.found_before)
    contents: list[list[Content]] = []
    parts = (request.train,) if request.val is None else (request.train, request.val)
    for part in parts:
        found = list(fast_findings(part, size, request.max_detections))
        contents.append(read_contents(part, progress))
        unreadable = {one.image_path for one in found if one.code == "picture-unreadable"}
        findings += [*found, *damaged(contents[-1], unreadable), *copies(part, contents[-1])]
    if request.val is not None:
        findings += [*fast_findings_between(request.train, request.val), *leaks(request.val, *contents)]
    if request.semantic is not None:
        findings += [
            *map_files(request.train, request.semantic),
            *map_values(request.train, request.semantic, request.semantic_classes),
        ]
    return Examination(parts, tuple(_sorted(findings)), data, advice(data))


def repairable(request: Request) -> Callable[[AnnotationFile], Iterable[Finding]]:
    """The checks whose findings can be corrected in the file: those of one part that need no pixels."""
    size = advised_input(statistics(request.train))
    return lambda part: fast_findings(part, size, request.max_detections)


def advice(data: Statistics) -> tuple[Advice, ...]:
    """Input size, anchors at that size, detections an image, sampling."""
    return input_size(data), anchor_scale(data, advised_input(data)), max_detections(data), sampling(data)


def advised_input(data: Statistics) -> Input:
    """The input of the advised size."""
    return Input.model_validate({name.partition(".")[2]: value for name, value in input_size(data).settings.items()})


def _sorted(findings: list[Finding]) -> list[Finding]:
    """Worst first, kinds in the order of their table; a leak that two checks found is told once."""
    order = {code: (SEVERITIES.index(kind.severity), place) for place, (code, kind) in enumerate(FINDING_KINDS.items())}
    seen: set[tuple[object, ...]] = set()
    unique = []
    for finding in findings:
        key = (finding.code, finding.file, finding.image, finding.annotation, finding.what)
        if key not in seen:
            seen.add(key)
            unique.append(finding)
    return sorted(unique, key=lambda finding: order[finding.code])

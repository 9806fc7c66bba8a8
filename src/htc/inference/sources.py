"""Find the images in files, folders and glob patterns, give them names and image ids, and predict on them.

Does not import torch, so that the command line can check its sources first.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from htc.data.image_names import ListedNames
from htc.data.images import MAX_PIXELS, image_size
from htc.errors import DataError

if TYPE_CHECKING:
    from htc.inference.predictor import ImagePredictor
    from htc.results import Detections

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of images in folders; a file that is named explicitly may have any suffix."""


class ImageFile(NamedTuple):
    """An image to predict on."""

    path: Path
    name: str
    """Path relative to its SOURCE, with forward slashes; unique among all images."""


class Failure(NamedTuple):
    """An image or source that could not be used, with the message for the user."""

    source: str
    message: str


def expand(sources: Sequence[str | Path]) -> tuple[list[ImageFile], list[Failure]]:
    """List the images in files, folders (searched recursively, without hidden files) and glob patterns (also `**`),
    each once.

    A folder or pattern without images is a failure. A missing file that is named explicitly stays in the list; reading
    it fails later.
    """
    images: dict[Path, tuple[ImageFile, Path]] = {}
    failures = []
    for source in sources:
        root, paths = _images(source)
        if not paths:
            kind = "folder" if Path(source).is_dir() else "pattern"
            failures.append(
                Failure(str(source), f"{source}: no images in this {kind}; supported suffixes: {', '.join(SUFFIXES)}")
            )
        for path in paths:
            images.setdefault(path.absolute(), (ImageFile(path, path.relative_to(root).as_posix()), root))
    return _distinct(list(images.values())), failures


def readable(files: Iterable[ImageFile], max_pixels: int = MAX_PIXELS) -> tuple[list[ImageFile], list[Failure]]:
    """Separate images with a readable header and at most `max_pixels` pixels from the others."""
    usable, failures = [], []
    for file in files:
        try:
            height, width = image_size(file.path)
            if height * width > max_pixels:
                raise DataError(
                    f"{file.path} has {height * width} pixels ({width}x{height}); to accept it, add --max-pixels "
                    f"{height * width}"
                )
            usable.append(file)
        except DataError as error:
            failures.append(Failure(str(file.path), str(error)))
    return usable, failures


def _images(source: str | Path) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the images in natural order."""
    path = Path(source)
    if path.is_dir():
        return path, _visible(path, path.rglob("*"))
    if path.exists() or not has_magic(str(source)):
        return path.parent, [path]
    depth = next(index for index, part in enumerate(path.parts) if has_magic(part))
    fixed = Path(*path.parts[:depth])
    return fixed, _visible(fixed, fixed.glob(str(Path(*path.parts[depth:]))))


def _visible(root: Path, candidates: Iterable[Path]) -> list[Path]:
    images = (path for path in candidates if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(
        (path for path in images if not any(part.startswith(".") for part in path.relative_to(root).parts)),
        key=_natural,
    )


def _natural(path: Path) -> list[tuple[str, int]]:
    """Sort key that puts image 9 before image 10."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", path.as_posix())]


def _distinct(files: list[tuple[ImageFile, Path]]) -> list[ImageFile]:
    """Make equal names from several sources unique: prepend the source folder's name or, if needed, the whole path."""
    names = [file.name for file, _ in files]
    for longer in (_under_root, _whole):
        uses = Counter(names)
        names = [
            longer(file, root) if uses[name] > 1 else name for name, (file, root) in zip(names, files, strict=True)
        ]
    return [file._replace(name=name) for name, (file, _) in zip(names, files, strict=True)]


def _under_root(file: ImageFile, root: Path) -> str:
    return f"{root.absolute().name}/{file.name}"


def _whole(file: ImageFile, _root: Path) -> str:
    return file.path.absolute().as_posix().replace(":", "").lstrip("/")


def image_ids(
    files: Sequence[ImageFile], annotations: ListedNames | Mapping[str, int | str] | None = None
) -> list[int | str]:
    """Return the id of each image in result files.

    It is the id of its file name (its path below SOURCE, else as much of its path as `annotations` list); else the
    integer of an all-digit stem, unless another image has this id; else its name. Raises `DataError` where
    `annotations` are ambiguous.
    """
    known = annotations if isinstance(annotations, ListedNames) else ListedNames((annotations or {}).items())
    given = known.ids_of([(file.path, file.name) for file in files])
    stems = [int(file.path.stem) if file.path.stem.isascii() and file.path.stem.isdigit() else None for file in files]
    uses = Counter([*known.all_ids, *(stem for stem, own in zip(stems, given, strict=True) if own is None)])
    return [
        own if own is not None else stem if stem is not None and uses[stem] == 1 else file.name
        for file, own, stem in zip(files, given, stems, strict=True)
    ]


def predict_files(
    predictor: "ImagePredictor[Any]",
    files: Iterable[ImageFile],
    failures: list[Failure],
    batch_size: int = 1,
    score_threshold: float = 0.5,
    on_failure: Callable[[Failure], None] | None = None,
    **options: Any,
) -> "Iterator[tuple[ImageFile, Detections]]":
    """Yield each readable image with its detections, in order; others are appended to `failures` and passed to
    `on_failure` immediately. `options` are those of `predict_many`.
    """
    waiting: dict[int, ImageFile] = {}

    def paths() -> Iterator[Path]:
        for index, file in enumerate(files):
            waiting[index] = file
            yield file.path

    def report(source: object, error: DataError) -> None:
        failure = Failure(str(source), str(error))
        failures.append(failure)
        if on_failure is not None:
            on_failure(failure)

    options |= {"batch_size": batch_size, "score_threshold": score_threshold, "on_error": report}
    for detections in predictor.predict_many(paths(), **options):
        assert detections.index is not None
        for passed in [index for index in waiting if index < detections.index]:
            del waiting[passed]
        yield waiting.pop(detections.index), detections

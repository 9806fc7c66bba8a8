"""Find the images in files, folders and glob patterns, give them names and image ids, and predict on them.

Does not import torch, so that the command line can check its sources first.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from htc.data.image_headers import IMAGE_SUFFIXES, Pages, image_header, is_image
from htc.data.image_names import ListedNames
from htc.data.image_pages import page_path
from htc.data.images import MAX_PIXELS, is_url
from htc.data.remote_images import check_url
from htc.errors import DataError

if TYPE_CHECKING:
    from htc.inference.predictor import ImagePredictor
    from htc.results import Detections

COMPANIONS = frozenset(
    (
        *(".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml"),
        *(".toml", ".ini", ".cfg", ".log", ".lock", ".py", ".ipynb", ".sh", ".bat", ".npy", ".npz", ".mat", ".pkl"),
        *(".pth", ".pt", ".onnx", ".safetensors", ".db", ".zip", ".gz", ".tar", ".xlsx", ".docx", ".url", ".part"),
    )
)
"""Suffixes of files beside images that are no images, and are not reported."""
OTHER_IMAGES = frozenset(
    (
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".svg", ".eps", ".psd", ".tga"),
        *(".ico", ".exr", ".hdr", ".pfm", ".dcm", ".nii", ".fits", ".czi", ".nd2", ".lif", ".svs", ".vsi", ".jxl"),
        *(".oib", ".oif", ".zvi", ".scn", ".mrxs", ".ndpi", ".jxr", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".qoi"),
    )
)
"""Suffixes of images and videos of other kinds."""


class ImageFile(NamedTuple):
    """An image to predict on."""

    path: Path | str
    """Its file; `stack.tif#2` for the second page of a file with several; a URL as text."""
    name: str
    """Path relative to its SOURCE, with forward slashes; unique among all images."""


class Failure(NamedTuple):
    """An image or source that could not be used, with the message for the user."""

    source: str
    message: str


def expand(sources: Sequence[str | Path]) -> tuple[list[ImageFile], list[Failure]]:
    """List the images in files, folders (searched recursively, without hidden files; linked folders are followed), glob
    patterns (also `**`) and http(s) URLs, each once.

    A folder or pattern without images is a failure, as is an image of an unsupported kind in a folder. A missing file
    that is named explicitly stays in the list; reading it fails later.
    """
    images: dict[Path | str, tuple[ImageFile, Path]] = {}
    failures: list[Failure] = []
    for source in sources:
        if is_url(source):
            _add_url(str(source), images, failures)
            continue
        root, paths = _images(source, failures)
        if not paths:
            kind = "folder" if Path(source).is_dir() else "pattern"
            suffixes = ", ".join(IMAGE_SUFFIXES)
            failures.append(Failure(str(source), f"{source}: no images in this {kind}; supported suffixes: {suffixes}"))
        for path in paths:
            images.setdefault(path.absolute(), (ImageFile(path, path.relative_to(root).as_posix()), root))
    return _distinct(list(images.values())), failures


def _add_url(url: str, images: dict[Path | str, tuple[ImageFile, Path]], failures: list[Failure]) -> None:
    try:
        check_url(url)
    except DataError as error:
        failures.append(Failure(url, str(error)))
        return
    parts = urlsplit(url)
    name = PurePosixPath(re.sub(r"[\\\x00-\x1f]", "", unquote(parts.path))).name
    name = name if name.strip(".") else parts.hostname or "image"
    images.setdefault(url, (ImageFile(url, name), Path(parts.hostname or "")))


def readable(
    files: Iterable[ImageFile], max_pixels: int = MAX_PIXELS, pages: Pages = None
) -> tuple[list[ImageFile], list[Failure]]:
    """Separate images with a readable header and at most `max_pixels` pixels from the others.

    With `pages` "all", each page of a file is an image of its own; with a number, that page is used. URLs are not
    fetched.
    """
    usable, failures = [], []
    for file in files:
        try:
            usable += [file] if isinstance(file.path, str) else _usable_pages(file, file.path, max_pixels, pages)
        except DataError as error:
            failures.append(Failure(str(file.path), str(error)))
    return usable, failures


def _usable_pages(file: ImageFile, path: Path, max_pixels: int, pages: Pages) -> list[ImageFile]:
    header = image_header(path)
    numbers = range(1, header.pages + 1) if pages == "all" else (pages,) if isinstance(pages, int) else ()
    paged = [
        ImageFile(page_path(path, number), f"{file.name}#{number}")
        for number in numbers
        if header.pages > 1 or number > 1
    ] or [file]
    for one in paged:
        height, width = header.size if one is file else image_header(Path(one.path)).size
        if height * width > max_pixels:
            raise DataError(
                f"{one.path} has {height * width} pixels ({width}x{height}); to accept it, add --max-pixels "
                f"{height * width}"
            )
    return paged


def _images(source: str | Path, failures: list[Failure]) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the images in natural order."""
    path = Path(source)
    if path.is_dir():
        return path, _visible(path, _below(path), failures)
    if path.exists() or not has_magic(str(source)):
        return path.parent, [path]
    depth = next(index for index, part in enumerate(path.parts) if has_magic(part))
    fixed = Path(*path.parts[:depth])
    pattern = path.parts[depth:]
    if "**" in pattern:  # of which pathlib does not follow links
        matches = (file for file in _below(fixed) if _fits(file.relative_to(fixed).parts, pattern))
    else:
        matches = fixed.glob("/".join(pattern))
    return fixed, _visible(fixed, matches, [])


def _below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder that are not hidden. Linked folders are followed, unless they contain their own
    link.
    """
    for parent, folders, names in os.walk(folder, followlinks=True):
        inside = Path(parent)
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_up(inside / name)]
        yield from (inside / name for name in names)


def _leads_up(folder: Path) -> bool:
    """Whether a folder is a link to one that contains the link."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob pattern, part by part; `**` stands for any number of folders."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return any(_fits(parts[skipped:], pattern[1:]) for skipped in range(len(parts)))
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _visible(root: Path, candidates: Iterable[Path], failures: list[Failure]) -> list[Path]:
    """Return the images among the files, in natural order, and report those of other kinds and links without file."""
    visible = [path for path in candidates if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    images = []
    for path in sorted(visible, key=_natural):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            if path.is_file():
                images.append(path)
            elif path.is_symlink() and not path.exists():
                failures.append(Failure(str(path), f"{path}: skipped: a link to a file that does not exist"))
        elif suffix in OTHER_IMAGES or (suffix not in COMPANIONS and is_image(path)):
            remedy = "convert it to PNG, JPEG or TIFF" if suffix in OTHER_IMAGES else "rename it, or name it as SOURCE"
            failures.append(Failure(str(path), f"{path}: skipped: no suffix of a supported image; {remedy}"))
    return images


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
    path = file.path if isinstance(file.path, str) else file.path.absolute().as_posix()
    return re.sub(r"[:?&=]+", "", path.replace("://", "/")).lstrip("/")


def image_ids(
    files: Sequence[ImageFile], annotations: ListedNames | Mapping[str, int | str] | None = None
) -> list[int | str]:
    """Return the id of each image in result files.

    It is the id of its file name (its path below SOURCE, else as much of its path as `annotations` list); else the
    integer of an all-digit stem, unless another image has this id; else its name. Raises `DataError` where
    `annotations` are ambiguous.
    """
    known = annotations if isinstance(annotations, ListedNames) else ListedNames((annotations or {}).items())
    paths = [Path(file.name) if isinstance(file.path, str) else file.path for file in files]
    given = known.ids_of([(path, file.name) for path, file in zip(paths, files, strict=True)])
    stems = [int(path.stem) if path.stem.isascii() and path.stem.isdigit() else None for path in paths]
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

    def paths() -> Iterator[Path | str]:
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

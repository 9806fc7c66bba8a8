"""Writers of COCO result files, labelme files and drawings. Files are written atomically."""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from htc.data.image_pages import file_and_page
from htc.data.images import MAX_PIXELS, VISIBLE, is_url, read_image
from htc.files import Writer, whole_file, write_json
from htc.inference.sources import ImageFile
from htc.results import Detections
from htc.visual.drawing import enlargement

JPEG = (".jpg", ".jpeg")
NAME_BYTES = 230
"""Maximum length of a file name, with space for the temporary name under which a file is written; most systems allow
255.
"""
JPEG_SIDE = 65_500
"""Maximum side of a JPEG in pixels."""


class ResultsSink(Protocol):
    """Receives COCO results image by image."""

    def add(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Append results."""
        ...


@dataclass
class ResultsList:
    """Keeps COCO results in memory."""

    results: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Append results."""
        self.results += results


class ResultsFile:
    """A COCO result file (a JSON list), written image by image; use it inside `with results_file(path)`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.count = 0

    def add(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Append results, one per line."""
        for result in results:
            self._writer.write(
                (",\n" if self.count else "[\n").encode()
                + json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
            )
            self.count += 1

    def finish(self) -> None:
        """Close the list."""
        self._writer.write(b"\n]\n" if self.count else b"[]\n")


@contextmanager
def results_file(path: Path) -> Iterator[ResultsFile]:
    """Yield a COCO result file that is created when the block ends without an error; raises `OutputError`."""
    with whole_file(path) as writer:
        results = ResultsFile(writer)
        yield results
        results.finish()


@dataclass(frozen=True, kw_only=True)
class PredictionWriter:
    """Writes predictions image by image: COCO results, drawings and labelme files."""

    results: ResultsSink | None = None
    """Receiver of the COCO results; None: no results."""
    polygons: bool = False
    """Write segmentations as polygons, which lose holes, instead of RLE."""
    drawings: Path | None = None
    """Folder of the drawings; None: no drawings."""
    labelme: Path | None = None
    """Folder of the labelme files; None: no labelme files."""
    max_pixels: int = MAX_PIXELS
    """Maximum pixels of an image, which is read again for a drawing; `DataError` above."""
    files: Sequence[ImageFile] = ()
    """All images of the run: a labelme file is named `a.json`, but `a.png.json` if there is an `a.jpg` too."""
    written: Container[str] | None = None
    """The files of a resumed run (`path_key`), which are not overwritten; others are of an image that was interrupted.
    None: no file is overwritten.
    """

    @cached_property
    def _labelme_names(self) -> Mapping[str, str]:
        """The labelme file of each image, by its name."""
        names = [file.name for file in self.files]
        uses = Counter(_without_suffix(name).lower() for name in names)
        return {name: name if uses[_without_suffix(name).lower()] == 1 else f"{name}.json" for name in names}

    def write(self, file: ImageFile, image_id: int | str, detections: Detections) -> list[Path]:
        """Write the detections of one image and return the files. Raises `OutputError`, and `DataError` if the image
        can no longer be read.
        """
        paths = []
        if self.results is not None:
            self.results.add((polygon_results if self.polygons else Detections.to_coco)(detections, image_id))
        if self.drawings is not None:
            image = file.path if isinstance(file.path, Path) or detections.image is None else detections.image
            pixels = read_image(image, self.max_pixels, intensity=VISIBLE)
            paths.append(write_drawing(self.drawings, file.name, detections, pixels, written=self.written))
        if self.labelme is not None:
            name = self._labelme_names.get(file.name, file.name)
            paths.append(write_labelme(self.labelme, name, detections, written=self.written))
        return paths


def polygon_results(detections: Detections, image_id: int | str) -> list[dict[str, Any]]:
    """Return COCO results with polygons instead of RLE; holes are lost."""
    results = detections.to_coco(image_id)
    if not detections.masks.exist:
        return results
    return [
        {**result, "segmentation": [polygon.ravel().tolist() for polygon in polygons]}
        for result, polygons in zip(results, detections.masks.outlines(), strict=True)
    ]


def write_labelme(
    folder: Path,
    name: str,
    detections: Detections,
    tolerance: float = 0.75,
    *,
    written: Container[str] | None = None,
) -> Path:
    """Write `folder/<name without suffix>.json` for labelme, with the relative path of the image; returns the path,
    which has a number if there is such a file (`free_path`).
    """
    path = free_path(folder / _without_suffix(name), written)
    write_json(path, detections.to_labelme(_relative(detections.source or name, path.parent), tolerance))
    return path


def write_drawing(
    folder: Path,
    name: str,
    detections: Detections,
    image: UInt8[np.ndarray, "H W 3"],
    *,
    labels: bool = True,
    written: Container[str] | None = None,
) -> Path:
    """Write the image with its detections to `folder/<name>`, with a number if there is such a file (`free_path`);
    small images are enlarged. JPEG for a JPEG, else PNG.
    """
    drawing = detections.drawing(image, labels=labels, scale=enlargement(detections.size))
    path = folder / name
    if path.suffix.lower() not in (*JPEG, ".png") or (path.suffix.lower() in JPEG and max(drawing.shape) > JPEG_SIDE):
        path = path.with_name(path.name + ".png")
    path = free_path(path, written)
    write_image(path, drawing)
    return path


def write_image(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an RGB image as JPEG or PNG, by its suffix; raises `OutputError`."""
    encoded = io.BytesIO()
    if path.suffix.lower() in JPEG:
        Image.fromarray(image).save(encoded, "JPEG", quality=93, subsampling=0)
    else:
        Image.fromarray(image).save(encoded, "PNG", compress_level=4)
    with whole_file(path) as writer:
        writer.write(encoded.getbuffer())


def free_path(path: Path, written: Container[str] | None = None) -> Path:
    """Return a path that does not exist yet: this one, or with a number. A name that is too long is shortened, with a
    hash of the whole name. With `written`, only these existing files (`path_key`) are kept; others are overwritten.
    """
    if len(os.fsencode(path.name)) > NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
        start = os.fsencode(path.stem)[: NAME_BYTES - 13 - len(os.fsencode(path.suffix))].decode(errors="ignore")
        path = path.with_name(f"{start}-{digest}{path.suffix}")
    numbered = (path if n == 1 else path.with_stem(f"{path.stem}-{n}") for n in count(1))
    return next(
        free for free in numbered if not free.exists() or (written is not None and path_key(free) not in written)
    )


def path_key(path: Path) -> str:
    """Return text that is equal for equal files, also on a file system that ignores case."""
    return str(path.absolute()).casefold()


def _without_suffix(name: str) -> str:
    """`sub/a.png` -> `sub/a.json`."""
    return PurePath(name).with_suffix(".json").as_posix()


def _relative(source: str, folder: Path) -> str:
    """Return the path of the image relative to `folder`; absolute if there is none (another drive). A URL is returned
    unchanged, and of a page its file.
    """
    if is_url(source):
        return source
    path, _ = file_and_page(Path(source))
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return path.absolute().as_posix()

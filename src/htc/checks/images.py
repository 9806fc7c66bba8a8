"""Checks of the image files.

From names and headers: missing, unreadable, turned or listed twice, of another size. From the pixels: damaged images,
copies, and nearly the same image in training and validation.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from htc.checks.findings import Edit, Finding
from htc.checks.records import file_digest, leaked
from htc.data.annotation_file import AnnotationFile, ImageEntry
from htc.data.formats.converted import PICTURE_ENDINGS
from htc.data.images import TURNED, picture_header, read_picture
from htc.errors import DataError
from htc.progress import Progress

MOSTLY_IMAGES = 0.5
"""If more of the pictures are missing, the folder is the wrong one, and no record is removed."""
THUMBPRINT_SIDE = 16
"""The print compares the brightness of 16 x 17 neighbouring cells across and 17 x 16 down: 512 bits."""
ALIKE = 40
"""Bits of 512 in which prints of one picture may differ when it is saved anew, resized or made brighter; see
docs/doctor.md.
"""
FLAT = 2.0
"""Grey levels (standard deviation) below which a picture shows nothing that could be compared."""


def check_image_files(part: AnnotationFile) -> Iterator[Finding]:
    """What is wrong with the file of each record."""
    missing = [picture for picture in part.images if not picture.path.is_file()]
    removable = len(missing) <= MOSTLY_IMAGES * len(part.images)
    lower = {name.lower(): name for name in part.present}
    for picture in missing:
        yield _missing(part, picture, lower.get(Path(picture.name).name.lower()), removable)
    for picture in part.images:
        if picture.path.is_file():
            yield from _header(picture)


def _missing(part: AnnotationFile, picture: ImageEntry, alike: str | None, removable: bool) -> Finding:
    what = f"{picture.name} is not in {part.folder}"
    if alike is not None:
        edits = (Edit("images", picture.position, {"file_name": alike}),)
        return Finding(
            "picture-missing",
            f"{what}, but {alike} is",
            part.file,
            picture.id,
            edits=edits,
            fixed_by=f"file_name {alike} written",
        )
    # Its objects belong to no picture then, and are removed for that.
    edits = (Edit("images", picture.position, None),) if removable else ()
    return Finding("picture-missing", what, part.file, picture.id, edits=edits, fixed_by="record and objects removed")


def _header(picture: ImageEntry) -> Iterator[Finding]:
    try:
        height, width, orientation = picture_header(picture.path)
    except DataError as error:
        yield Finding(
            "picture-unreadable",
            str(error).removeprefix(f"{picture.path} ").partition(";")[0],
            picture.path,
            picture.id,
            picture.path,
        )
        return
    if picture.size is None:
        return
    stated = f"{picture.size[1]}x{picture.size[0]}"
    upright = (width, height) if orientation in TURNED else (height, width)
    if upright != picture.size:
        if orientation in TURNED and (height, width) == picture.size:
            what = f"its EXIF orientation {orientation} shows it as {upright[1]}x{upright[0]}, its record says {stated}"
            yield Finding("picture-turned", what, picture.path, picture.id, picture.path)
        else:
            yield Finding(
                "picture-size",
                f"it is {upright[1]}x{upright[0]}, its record says {stated}",
                picture.path,
                picture.id,
                picture.path,
            )
    elif orientation in (2, 3, 4):
        yield Finding(
            "picture-orientation", f"its EXIF orientation is {orientation}", picture.path, picture.id, picture.path
        )


def listed_twice(part: AnnotationFile) -> Iterator[Finding]:
    """One file in several records with different ids."""
    records: dict[Path, list[ImageEntry]] = defaultdict(list)
    for picture in part.images:
        records[picture.path].append(picture)
    for path, several in records.items():
        first = several[0]
        for other in several[1:]:
            if other.id == first.id:
                continue  # a repeated id, which has its own finding
            moved = tuple(
                Edit("annotations", one.position, {"image_id": first.id}) for one in part.by_image[other.position]
            )
            edits = (Edit("images", other.position, None), *moved) if other.size == first.size else ()
            what = f"{path.name} is image {first.id} and image {other.id}"
            yield Finding(
                "picture-listed-twice",
                what,
                part.file,
                other.id,
                path,
                edits=edits,
                fixed_by=f"objects moved to image {first.id}",
            )


def unlisted(part: AnnotationFile) -> Iterator[Finding]:
    """Pictures of the folder that no record names."""
    listed = {picture.path.name for picture in part.images}
    others = sorted(
        name
        for name in part.present - listed
        if Path(name).suffix.lower() in PICTURE_ENDINGS and not name.startswith(".")
    )
    if others:
        yield Finding(
            "picture-unlisted",
            f"{len(others)} of {len(part.present)} files in {part.folder}, the first is {others[0]}",
            part.file,
        )


def without_objects(part: AnnotationFile) -> Iterator[Finding]:
    """Pictures that no annotation belongs to."""
    empty = [picture for picture in part.images if not part.by_image.get(picture.position) and picture.path.is_file()]
    if empty:
        what = f"{len(empty)} of {len(part.images)} pictures, the first is {empty[0].name}"
        yield Finding("picture-empty", what, part.file, empty[0].id, empty[0].path)


IMAGE_CHECKS = (check_image_files, listed_twice, unlisted, without_objects)


@dataclass(frozen=True)
class Content:
    """What is compared of one picture file."""

    picture: ImageEntry
    digest: str
    print: Bool[np.ndarray, " B"] | None
    """None of a damaged or flat picture."""
    fault: str | None


def read_contents(part: AnnotationFile, progress: Progress | None = None) -> list[Content]:
    """Decodes every picture of the part once."""
    files = list({picture.path: picture for picture in part.images if picture.path.is_file()}.values())
    found = []
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        for content in pool.map(_read, files):
            found.append(content)
            if progress is not None:
                progress(len(found), len(files))
    return found


def _read(picture: ImageEntry) -> Content:
    try:
        pixels = read_picture(picture.path)
        return Content(picture, file_digest(picture.path), brightness_print(pixels), None)
    except (DataError, OSError) as error:
        return Content(picture, "", None, str(error).removeprefix(f"{picture.path} ").partition(";")[0])


def brightness_print(pixels: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, " B"] | None:
    """Which of neighbouring cells of the small grey picture is brighter (the difference hash of Krawetz 2013, in
    both directions).
    """
    small = cv2.resize(
        cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY),
        (THUMBPRINT_SIDE + 1, THUMBPRINT_SIDE + 1),
        interpolation=cv2.INTER_AREA,
    ).astype(np.float32)
    if small.std() < FLAT:
        return None
    return np.concatenate(((small[:-1, 1:] > small[:-1, :-1]).ravel(), (small[1:, :-1] > small[:-1, :-1]).ravel()))


def damaged(contents: Iterable[Content], known: set[Path | None]) -> Iterator[Finding]:
    """Pictures that cannot be decoded, beside the known ones, whose headers said so already."""
    for content in contents:
        picture = content.picture
        if content.fault is not None and picture.path not in known:
            yield Finding("picture-damaged", content.fault, picture.path, picture.id, picture.path)


def copies(part: AnnotationFile, contents: Iterable[Content]) -> Iterator[Finding]:
    """Equal files under several names of one part."""
    of: dict[str, list[ImageEntry]] = defaultdict(list)
    for content in contents:
        if content.digest:
            of[content.digest].append(content.picture)
    for first, *others in of.values():
        for other in others:
            yield Finding(
                "picture-copied",
                f"{other.name} is the same file as {first.name} (image {first.id})",
                part.file,
                other.id,
                other.path,
            )


def leaks(val: AnnotationFile, ours: list[Content], theirs: list[Content]) -> Iterator[Finding]:
    """Validation pictures (`theirs`) that are, or nearly are, training pictures (`ours`)."""
    of = {content.digest: content.picture for content in ours if content.digest}
    known = [(content.picture, content.print) for content in ours if content.print is not None]
    prints = np.array([one for _, one in known])
    for content in theirs:
        other = of.get(content.digest)
        if other is not None:
            yield leaked(val, content.picture, other)
        elif content.print is not None and len(known):
            apart = (prints != content.print).sum(1)
            nearest = int(apart.argmin())
            if apart[nearest] <= ALIKE:
                what = (
                    f"{content.picture.name} looks like {known[nearest][0].path.name} of training "
                    f"({apart[nearest]} "
                    f"of {len(content.print)} bits differ)"
                )
                yield Finding("picture-leaked-alike", what, val.file, content.picture.id, content.picture.path)

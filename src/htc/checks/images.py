"""Checks of the image files.

From names and headers: images that are missing, unreadable, rotated, listed twice or of another size. From the pixels:
damaged images, copies, and nearly the same image in training and validation.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from htc.checks.findings import Edit, Finding
from htc.checks.records import file_digest, leaked
from htc.data.annotation_file import AnnotationFile
from htc.data.coco_records import ImageEntry
from htc.data.formats.converted import IMAGE_ENDINGS
from htc.data.image_headers import image_header
from htc.data.image_names import leaves_folder, portable
from htc.data.image_pages import file_and_page
from htc.data.images import VISIBLE, read_image
from htc.errors import DataError
from htc.files import visible
from htc.progress import Progress

MOSTLY_IMAGES = 0.5
"""If more than this share of the images is missing, the folder is probably wrong, and no record is removed."""
THUMBPRINT_SIDE = 16
"""The perceptual hash compares the brightness of neighboring cells, 16 x 16 horizontally and vertically: 512 bits."""
ALIKE = 40
"""Bits of 512 by which the hashes of an image may differ after it is saved again, resized or brightened; see
docs/guides/doctor.md.
"""
FLAT = 2.0
"""Standard deviation in gray levels below which an image has no content to compare."""


def check_image_files(part: AnnotationFile) -> Iterator[Finding]:
    """Check the file of each image record."""
    missing = [image for image in part.images if image.location.missing and not leaves_folder(image.name)]
    # A file of another name may be that of a missing image: then only a person can decide.
    removable = len(missing) <= MOSTLY_IMAGES * len(part.images)
    bases = Counter(PurePosixPath(portable(image.name)).name for image in missing)
    found = {other.path.name for other in part.images if not other.location.missing}
    for image in missing:
        base = PurePosixPath(portable(image.name)).name
        alike = bases[base] > 1 or base in found
        yield _missing(part, image, removable and not alike)
    yield from _differing_names(part)
    for image in part.images:
        if not image.location.missing:
            yield from _header(image)


def _missing(part: AnnotationFile, image: ImageEntry, removable: bool) -> Finding:
    # Its annotations then belong to no image and are removed for that reason.
    edits = (Edit("images", image.position, None),) if removable else ()
    return Finding(
        "picture-missing",
        f"{image.name} is not in {part.folder}",
        part.file,
        image.id,
        edits=edits,
        fixed_by="the image record and its annotations removed",
    )


def _differing_names(part: AnnotationFile) -> Iterator[Finding]:
    """Report, once for each kind, file names that differ from those of the files."""
    differing: dict[str, list[ImageEntry]] = defaultdict(list)
    for image in part.images:
        if image.location.difference:
            differing[image.location.difference].append(image)
    for difference, images in differing.items():
        assert part.folder is not None
        paths = [image.path.relative_to(part.folder).as_posix() for image in images]
        edits = tuple(
            Edit("images", image.position, {"file_name": path}) for image, path in zip(images, paths, strict=True)
        )
        example = f"{images[0].name!r}: the file is {paths[0]!r}"
        what = f"{len(images)} of {len(part.images)} by {difference}, such as {example}"
        yield Finding(
            "picture-name",
            what,
            part.file,
            images[0].id,
            images[0].path,
            edits=edits,
            fixed_by="the names of the files written",
        )


def _header(image: ImageEntry) -> Iterator[Finding]:
    try:
        header = image_header(image.path)
    except DataError as error:
        yield Finding(
            "picture-unreadable",
            str(error).removeprefix(f"{image.path} ").partition(";")[0],
            image.path,
            image.id,
            image.path,
        )
        return
    if header.floating:
        yield Finding("picture-floating", "it has floating-point values", image.path, image.id, image.path)
    if header.pages > 1 and file_and_page(image.path)[1] is None:
        what = f"it has {header.pages} pages or frames, of which only the first is used"
        yield Finding("picture-pages", what, image.path, image.id, image.path)
    if image.size is None:
        return
    recorded, upright, orientation = f"{image.size[1]}x{image.size[0]}", header.size, header.orientation
    if upright != image.size:
        if (header.height, header.width) == image.size:
            what = f"with its orientation {orientation}, it is {upright[1]}x{upright[0]}; its record has {recorded}"
            yield Finding("picture-turned", what, image.path, image.id, image.path)
        else:
            yield Finding(
                "picture-size",
                f"it is {upright[1]}x{upright[0]}, its record has {recorded}",
                image.path,
                image.id,
                image.path,
            )
    elif orientation in (2, 3, 4):
        yield Finding("picture-orientation", f"its orientation is {orientation}", image.path, image.id, image.path)


def listed_twice(part: AnnotationFile) -> Iterator[Finding]:
    """Report files that have several records with different ids."""
    records: dict[Path, list[ImageEntry]] = defaultdict(list)
    for image in part.images:
        if not image.location.missing:
            records[image.path].append(image)
    for path, several in records.items():
        first = several[0]
        for other in several[1:]:
            if other.id == first.id:
                continue  # a repeated id has its own finding
            moved = tuple(
                Edit("annotations", one.position, {"image_id": first.id}) for one in part.of_image(other.position)
            )
            same = other.size == first.size and portable(other.name) == portable(first.name)
            edits = (Edit("images", other.position, None), *moved) if same else ()
            what = f"{first.name} is both image {first.id} and image {other.id}"
            yield Finding(
                "picture-listed-twice",
                what,
                part.file,
                other.id,
                path,
                edits=edits,
                fixed_by=f"annotations moved to image {first.id}",
            )


def unlisted(part: AnnotationFile) -> Iterator[Finding]:
    """Report images in the folder that have no record."""
    listed = {file_and_page(image.path)[0].name for image in part.images if image.path.parent == part.folder}
    others = sorted(
        name
        for name in part.present - listed
        if PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS and visible(Path(name))
    )
    if others:
        yield Finding(
            "picture-unlisted",
            f"{len(others)} of {len(part.present)} files in {part.folder}, such as {others[0]}",
            part.file,
        )


def without_objects(part: AnnotationFile) -> Iterator[Finding]:
    """Report images without annotations."""
    annotated = frozenset(part.table.images.tolist())
    empty = [image for image in part.images if image.position not in annotated and not image.location.missing]
    if empty:
        what = f"{len(empty)} of {len(part.images)} images, such as {empty[0].name}"
        yield Finding("picture-empty", what, part.file, empty[0].id, empty[0].path)


IMAGE_CHECKS = (check_image_files, listed_twice, unlisted, without_objects)


@dataclass(frozen=True)
class Content:
    """The properties of an image file that are compared."""

    image: ImageEntry
    digest: str
    print: Bool[np.ndarray, " B"] | None
    """Perceptual hash; None for a damaged image or one without content."""
    fault: str | None


def read_contents(part: AnnotationFile, progress: Progress | None = None) -> list[Content]:
    """Decode every image of the part once."""
    files = list({image.path: image for image in part.images if not image.location.missing}.values())
    contents = []
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        for content in pool.map(_read, files):
            contents.append(content)
            if progress is not None:
                progress(len(contents), len(files))
    return contents


def _read(image: ImageEntry) -> Content:
    try:
        pixels = read_image(image.path, intensity=VISIBLE)
        return Content(image, file_digest(image.path), brightness_print(pixels), None)
    except (DataError, OSError) as error:
        return Content(image, "", None, str(error).removeprefix(f"{image.path} ").partition(";")[0])


def brightness_print(pixels: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, " B"] | None:
    """Compute a perceptual hash: which of two neighboring cells of the reduced gray image is brighter (the difference
    hash of Krawetz 2013, in both directions); None if the image has no content.
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
    """Report images that cannot be decoded, except those already `known` from their headers."""
    for content in contents:
        image = content.image
        if content.fault is not None and image.path not in known:
            yield Finding("picture-damaged", content.fault, image.path, image.id, image.path)


def copies(part: AnnotationFile, contents: Iterable[Content]) -> Iterator[Finding]:
    """Report equal files under several names in one part."""
    of: dict[str, list[ImageEntry]] = defaultdict(list)
    for content in contents:
        if content.digest:
            of[content.digest].append(content.image)
    for first, *others in of.values():
        for other in others:
            yield Finding(
                "picture-copied",
                f"{other.name} is the same file as {first.name} (image {first.id})",
                part.file,
                other.id,
                other.path,
            )


def leaks(val: AnnotationFile, train: list[Content], validation: list[Content]) -> Iterator[Finding]:
    """Report validation images that equal, or nearly equal, a training image."""
    of = {content.digest: content.image for content in train if content.digest}
    known = [(content.image, content.print) for content in train if content.print is not None]
    prints = np.array([one for _, one in known])
    for content in validation:
        other = of.get(content.digest)
        if other is not None:
            yield leaked(val, content.image, other)
        elif content.print is not None and len(known):
            distances = (prints != content.print).sum(1)
            nearest = int(distances.argmin())
            if distances[nearest] <= ALIKE:
                what = (
                    f"{content.image.name} looks like the training image {known[nearest][0].name} "
                    f"({distances[nearest]} of {len(content.print)} hash bits differ)"
                )
                yield Finding("picture-leaked-alike", what, val.file, content.image.id, content.image.path)

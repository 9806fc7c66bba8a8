"""What only the pixels tell: damaged pictures, copies, and nearly the same picture in two parts."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from htc.data.images import read_picture
from htc.doctor.finding import Finding
from htc.doctor.part import Part, Picture
from htc.doctor.splits import digest, leaked
from htc.errors import DataError

SIDE = 16
"""The print compares the brightness of 16 x 17 neighbouring cells across and 17 x 16 down: 512 bits."""
ALIKE = 40
"""Bits of 512 in which prints of one picture may differ when it is saved anew, resized or made brighter; see
docs/doctor.md.
"""
FLAT = 2.0
"""Grey levels (standard deviation) below which a picture shows nothing that could be compared."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Content:
    """What is compared of one picture file."""

    picture: Picture
    digest: str
    print: Bool[np.ndarray, " B"] | None
    """None of a damaged or flat picture."""
    fault: str | None


def read_contents(part: Part, progress: Progress | None = None) -> list[Content]:
    """Decodes every picture of the part once."""
    files = list({picture.path: picture for picture in part.pictures if picture.path.is_file()}.values())
    found = []
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        for content in pool.map(_read, files):
            found.append(content)
            if progress is not None:
                progress(len(found), len(files))
    return found


def _read(picture: Picture) -> Content:
    try:
        pixels = read_picture(picture.path)
        return Content(picture, digest(picture.path), brightness_print(pixels), None)
    except (DataError, OSError) as error:
        return Content(picture, "", None, str(error).removeprefix(f"{picture.path} ").partition(";")[0])


def brightness_print(pixels: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, " B"] | None:
    """Which of neighbouring cells of the small grey picture is brighter (the difference hash of Krawetz 2013, in
    both directions).
    """
    small = cv2.resize(
        cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (SIDE + 1, SIDE + 1), interpolation=cv2.INTER_AREA
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


def copies(part: Part, contents: Iterable[Content]) -> Iterator[Finding]:
    """Equal files under several names of one part."""
    of: dict[str, list[Picture]] = defaultdict(list)
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


def leaks(val: Part, ours: list[Content], theirs: list[Content]) -> Iterator[Finding]:
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

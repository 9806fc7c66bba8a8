"""Pairs images with the files that annotate them, by their names.

A file belongs to the image of the same stem (`a.jpg` and `a.txt`), to the image whose whole name it carries
(`a.jpg.png`), or to the image whose stem is equal after percent-decoding, Unicode composition and folding of case.
Label maps may also have words before or behind the stem: `cell_01_masks.png` belongs to `cell_01.tif` and to
`cell_01_img.tif`, `a_cat_2.png` is the second instance of class `cat` of `a.jpg`.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from htc.data.formats.converted import images_in
from htc.files import is_file

IMAGE_WORDS = frozenset(("img", "image", "images", "im", "raw", "rgb", "photo", "input", "orig", "original", "ome"))
LABEL_WORDS = frozenset(
    (
        *("mask", "masks", "label", "labels", "lbl", "lab", "seg", "segs", "segm", "segmentation", "gt", "truth"),
        *("groundtruth", "instance", "instances", "annotation", "annotations", "annot", "ann", "target", "object"),
        *("objects", "obj", "binary", "bin", "color", "colors", "map", "cp", "ome"),
    )
)
"""Words of file names that tell what a file is, and not which image it belongs to."""
WORDS = re.compile(r"[^_\-. ]+")


class Partner(NamedTuple):
    """A file that annotates an image."""

    file: Path
    label: str = ""
    """Words behind the image's stem that are neither numbers nor `LABEL_WORDS`."""
    number: str = ""
    """The number behind the image's stem, of one file among several."""


@dataclass(frozen=True)
class Pairs:
    """The files of each image, and what has no partner."""

    of: dict[Path, list[Partner]]
    """By image, for the images that have files."""
    images_alone: list[Path]
    files_alone: list[Path]
    shared: dict[Path, list[Path]]
    """The images of each file that belongs to several, which are not in `of`."""


def decoded(name: str) -> str:
    """A name in a form that does not depend on percent-encoding, Unicode composition and case."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def find_image(name: str, stem: str, folders: Iterable[Path]) -> Path | None:
    """The image of that file name (of which only the last part counts, with either separator), literally or decoded, or
    of that stem; the first in the folders, which need not exist.
    """
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    literal = next((folder / base for folder in folders if base and is_file(folder / base)), None)
    if literal is not None:
        return literal
    images = [image for folder in folders for image in images_in(folder)]
    for key, form in ((base, Path.as_posix), (stem, lambda path: path.with_suffix("").as_posix())):
        found = [image for image in images if key and decoded(form(Path(image.name))) == decoded(key)]
        if found:
            return found[0]
    return None


def pair_files(images: Iterable[Path], files: Iterable[Path], *, trim: bool = False) -> Pairs:
    """Pair images with files of other folders by name alone; `trim`: also without words at both ends of the stem."""
    images = list(images)
    named = _by_name(images, trim)
    of: dict[Path, list[Partner]] = defaultdict(list)
    shared: dict[Path, list[Path]] = {}
    alone: list[Path] = []
    for file in files:
        owners, rest = next(_owners(file, named, trim), ([], []))
        if len(owners) > 1:
            shared[file] = owners
        elif owners:
            of[owners[0]].append(_partner(file, rest))
        else:
            alone.append(file)
    for image, partners in of.items():
        # `a_2.png` beside `a.png` belongs to an image a_2 that is not there.
        if len(partners) > 1 and any(not partner.number and not partner.label for partner in partners):
            of[image] = [partner for partner in partners if not partner.number]
            alone += [partner.file for partner in partners if partner.number]
    taken = {image for owners in shared.values() for image in owners} | of.keys()
    return Pairs(dict(of), [image for image in images if image not in taken], alone, shared)


def _by_name(images: list[Path], trim: bool) -> list[Mapping[str, list[Path]]]:
    """The images by stem, by whole name, by decoded stem and, with `trim`, by stem without `IMAGE_WORDS`, and also
    without leading zeros; the last two only where they tell the images apart.
    """
    stems: dict[str, list[Path]] = defaultdict(list)
    names: dict[str, list[Path]] = defaultdict(list)
    forms: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        stems[image.stem].append(image)
        names[image.name].append(image)
        forms[decoded(image.stem)].append(image)
    if not trim:
        return [stems, names, forms]
    plain: dict[str, list[Path]] = defaultdict(list)
    unpadded: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        short = _without(decoded(image.stem), IMAGE_WORDS)
        plain[short].append(image)
        unpadded[_unpadded(short)].append(image)
    return [stems, names, forms, *({key: of for key, of in one.items() if len(of) == 1} for one in (plain, unpadded))]


def _owners(file: Path, named: list[Mapping[str, list[Path]]], trim: bool) -> Iterator[tuple[list[Path], list[str]]]:
    """The images that a file may belong to, the most certain first, and the words behind their stem."""
    stems, names, forms, *others = named
    for found in (names.get(file.stem), stems.get(file.stem), forms.get(decoded(file.stem))):
        if found:
            yield found, []
    if not trim:
        return
    stem = decoded(file.stem)
    words = list(WORDS.finditer(stem))
    texts = [word.group() for word in words]
    plain, unpadded = others
    for index, form in ((forms, str), (plain, str), (unpadded, _unpadded)):
        for first in range(len(words)):
            for last in range(len(words), first, -1):
                found = index.get(form(stem[words[first].start() : words[last - 1].end()]))
                if found:
                    yield found, texts[last:]
            if texts[first] not in LABEL_WORDS:
                break


def _partner(file: Path, rest: list[str]) -> Partner:
    words = [word for word in rest if word not in LABEL_WORDS]
    numbers = [word for word in words if word.isdecimal()]
    return Partner(file, "_".join(word for word in words if not word.isdecimal()), "_".join(numbers))


def _unpadded(stem: str) -> str:
    """The stem with its numbers without leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", stem)


def _without(stem: str, words: frozenset[str]) -> str:
    """The stem without the given words at its ends."""
    found = list(WORDS.finditer(stem))
    while len(found) > 1 and found[0].group() in words:
        found = found[1:]
    while len(found) > 1 and found[-1].group() in words:
        found = found[:-1]
    return stem[found[0].start() : found[-1].end()] if found else stem

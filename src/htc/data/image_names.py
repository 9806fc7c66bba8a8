"""Image files and the names that annotation files give them.

A `file_name` is relative to the images folder. Tools write it in other forms: with Windows separators, with the name of
the images folder in front, percent-encoded, in another Unicode form, with another case. `locate` finds the file of each
record in any of these forms, and never outside the folder; `ListedNames` finds the record of a file. Doctor, training,
evaluation and prediction share these rules.
"""

import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from htc.data.image_pages import page_parts, page_path
from htc.errors import DataError
from htc.files import visible

LOG = logging.getLogger("htc")
SEPARATORS = "Windows separators or ./"
OWN_FOLDER = "the name of the images folder in front"
PERCENT = "percent-encoding"
UNICODE = "another Unicode form (NFC or NFD)"
CASE = "upper and lower case"
BASE_NAME = "another folder: only the last part of the name agrees"
DOUBTFUL = (CASE, BASE_NAME)
"""Differences that are accepted only if no other record has the file."""


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """The file of an image record."""

    path: Path
    """Where the file is or, if it is missing, where it should be."""
    missing: bool = False
    difference: str = ""
    """How the name of the file differs from that of the record; empty if they are equal."""


def portable(name: str) -> str:
    """`name` with forward slashes, without empty parts and `.`."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def leaves_folder(name: str) -> bool:
    """Whether a name is absolute (also on Windows) or contains `..`, with either separator, also percent-encoded."""
    slashed = (unquote(name) if "%" in name else name).replace("\\", "/")
    if "/" not in slashed:
        return slashed == ".."
    return slashed.startswith("/") or re.match(r"[A-Za-z]:/", slashed) is not None or ".." in slashed.split("/")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _decoded(name: str) -> str:
    return _composed(unquote(name))


def _folded(name: str) -> str:
    return _composed(_decoded(name).casefold())


FORMS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("", str),
    (UNICODE, _composed),
    (PERCENT, _decoded),
    (CASE, _folded),
)
"""Forms of a name, each with the differences that it removes; strict forms first."""


def top_files(folder: Path) -> frozenset[str]:
    """Names of the files directly in a folder, also hidden ones."""
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if entry.is_file())


def visible_files(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, without hidden files and folders; links are followed."""
    waiting, entered = [("", folder)], {folder.resolve()}
    while waiting:
        prefix, current = waiting.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError:
            continue  # not readable: its files are reported as missing
        for entry in entries:
            if not visible(Path(entry.name)):
                continue
            if entry.is_file():
                yield prefix + entry.name
            elif entry.is_dir() and (real := Path(entry.path).resolve()) not in entered:
                entered.add(real)
                waiting.append((f"{prefix}{entry.name}/", Path(entry.path)))


def locate(folder: Path, names: Sequence[str], present: frozenset[str] | None = None) -> list[ImageLocation]:
    """Find the file of each record in `folder`, by its `file_name`; `present`: names of the files directly in it.

    A name may end in a page (`stack.tif#2`) of the file that it names. It is taken literally first. Only then other
    forms are tried, and at last a file of the same base name in another folder. A file that differs by case or folder
    is used only if no other record has it. Names that leave the folder are never looked up and are missing.
    """
    present = top_files(folder) if present is None else present
    paged = {name: parts for name in names if "#" in name and name not in present and (parts := page_parts(name))}
    if paged:
        files = locate(folder, [paged[name][0] if name in paged else name for name in names], present)
        return [
            replace(location, path=page_path(location.path, paged[name][1])) if name in paged else location
            for name, location in zip(names, files, strict=True)
        ]
    found = [_literal(folder, name, present) for name in names]
    if any(location is None for location in found):
        files = _Files(folder)
        found = [
            files.find(name) if location is None else location for name, location in zip(names, found, strict=True)
        ]
    claims: dict[Path, set[str]] = defaultdict(set)
    for name, location in zip(names, found, strict=True):
        if location is not None:
            claims[location.path].add(portable(name))
    return [
        ImageLocation(folder / (portable(name) if not leaves_folder(name) else "outside"), missing=True)
        if location is None or (location.difference in DOUBTFUL and len(claims[location.path]) > 1)
        else location
        for name, location in zip(names, found, strict=True)
    ]


def _literal(folder: Path, name: str, present: frozenset[str]) -> ImageLocation | None:
    if leaves_folder(name):
        return None
    if name in present:
        return ImageLocation(folder / name)
    plain = portable(name)
    if not plain:
        return None
    if plain in present or ("/" in plain and _is_file(folder / plain)):
        return ImageLocation(folder / plain, difference="" if plain == name else SEPARATORS)
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that the system cannot have: too long, with a null character
        return False


class _Files:
    """The files below a folder, by each of the `FORMS` of their relative path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = folder.absolute().parts
        self.by_form: list[dict[str, list[str]]] = [defaultdict(list) for _ in FORMS]
        self.by_base: dict[str, list[str]] = defaultdict(list)
        for file in visible_files(folder):
            for index, (_, form) in zip(self.by_form, FORMS, strict=True):
                index[form(file)].append(file)
            self.by_base[_folded(file.rsplit("/", 1)[-1])].append(file)

    def find(self, name: str) -> ImageLocation | None:
        """Find the only file that the name can mean."""
        if leaves_folder(name):
            return None
        plain = portable(name)
        for (difference, form), index in zip(FORMS, self.by_form, strict=True):
            for shorter, without_folder in self._variants(plain):
                files = index.get(form(shorter), ())
                if len(files) == 1:
                    return ImageLocation(self.folder / files[0], difference=difference or without_folder)
        return self._of_base_name(plain)

    def _variants(self, plain: str) -> Iterator[tuple[str, str]]:
        """The name, and the name without leading folders that repeat the end of the folder's path."""
        yield plain, SEPARATORS
        parts = tuple(plain.split("/"))
        for count in range(len(parts) - 1, 0, -1):
            if parts[:count] == self.own[-count:]:
                yield "/".join(parts[count:]), OWN_FOLDER

    def _of_base_name(self, plain: str) -> ImageLocation | None:
        """The file of this base name that shares the most folders at the end of its path, if there is one such file."""
        files = self.by_base.get(_folded(plain.rsplit("/", 1)[-1]), ())
        shared = [_shared_end(plain, file) for file in files]
        best = [file for file, count in zip(files, shared, strict=True) if count == max(shared)]
        return ImageLocation(self.folder / best[0], difference=BASE_NAME) if len(best) == 1 else None


def _shared_end(first: str, second: str, form: Callable[[str], str] = _folded) -> int:
    """Number of path components that two paths share at their end, in this form."""
    pairs = zip(reversed(form(first).split("/")), reversed(form(second).split("/")), strict=False)
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


class ListedNames:
    """The image ids of an annotation file by file name, for image files that are found elsewhere.

    Raises `DataError` for a name that leaves the images folder.
    """

    def __init__(self, ids: Iterable[tuple[str, int | str]]) -> None:
        ids = list(ids)
        self.all_ids = [id for _, id in ids]
        self.ids: dict[str, list[int | str]] = defaultdict(list)
        self.by_base: dict[str, list[str]] = defaultdict(list)
        for name, id in ids:
            if leaves_folder(name):
                raise DataError(f"image {id}: {outside_text(name)}")
            plain = portable(name)
            if plain not in self.ids:
                self.by_base[_folded(plain.rsplit("/", 1)[-1])].append(plain)
            if id not in self.ids[plain]:
                self.ids[plain].append(id)

    def ids_of(self, files: Sequence[tuple[Path, str]]) -> list[int | str | None]:
        """The id of each image file (path, path below the folder that was given); None for those that are not listed.

        An image of which only the end of the listed name agrees is logged. Raises `DataError` if several listed images
        may be meant, or one by several files.
        """
        names = [self._name_of(path, name) for path, name in files]
        claims: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(names):
            if name is not None:
                claims[name].append(index)
        for name, indices in claims.items():
            fits = [_fit(name, *files[index]) for index in indices]
            if fits.count(max(fits)) > 1:
                first, second = (files[index][0] for index in indices[:2])
                raise DataError(
                    f"{first} and {second} may both be the image {name} of the annotations; pass the folder that its "
                    f"file_name starts from as SOURCE"
                )
            for index, fit in zip(indices, fits, strict=True):
                names[index] = name if fit == max(fits) else None
            if max(fits) == 0:
                path = files[indices[fits.index(0)]][0]
                LOG.warning("%s is taken as the image %s of the annotations: only the end agrees", path, name)
        return [None if name is None else self.ids[name][0] for name in names]

    def _name_of(self, path: Path, name: str) -> str | None:
        """The listed name of an image file."""
        listed = self.by_base.get(_folded(path.name), [])
        if not listed:
            return None
        # `cam1/a.png` of the folder `images` may be listed as `images/cam1/a.png`, and the other way round.
        whole = path.absolute().as_posix()
        fits = [(one == name, *(_shared_end(one, whole, form) for form in (_folded, _composed))) for one in listed]
        best = [one for one, fit in zip(listed, fits, strict=True) if fit == max(fits)]
        count = max(len(best), len(self.ids[best[0]]))
        if count > 1:
            raise DataError(
                f"{path}: the annotations list {count} images of this name ({', '.join(best[:3])}), so its image_id is "
                f"ambiguous; pass the folder that their file_name starts from as SOURCE"
            )
        return best[0]


def _fit(listed: str, path: Path, name: str) -> int:
    """2: the listed name is the path below the given folder; 1: it is the end of the whole path; 0: its end is."""
    if _folded(listed) == _folded(name):
        return 2
    return int(_shared_end(listed, path.absolute().as_posix()) == listed.count("/") + 1)


def outside_text(name: str) -> str:
    """What is wrong with a name that leaves the images folder."""
    return f"its file_name {name!r} is absolute or leaves the images folder through '..'"


def distinct_names(paths: Sequence[Path], longest: int = 64) -> list[str]:
    """A short file name without suffix for each path, all different (also on file systems that ignore case).

    Paths of one stem get their suffix, then their folders, then a number.
    """
    names = [_shortened(path.stem, longest) for path in paths]
    for longer in (lambda path: path.name.replace(".", "_"), lambda path: "_".join(path.parts[-3:]).replace(".", "_")):
        repeated = _repeated(names)
        names = [
            _shortened(longer(path), longest) if name.casefold() in repeated else name
            for name, path in zip(names, paths, strict=True)
        ]
    repeated = _repeated(names)
    taken: set[str] = {name.casefold() for name in names if name.casefold() not in repeated}
    distinct = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in taken and name.casefold() in repeated:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.casefold())
        distinct.append(candidate)
    return distinct


def _shortened(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[-longest:]


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(map(str.casefold, names)).items() if count > 1}

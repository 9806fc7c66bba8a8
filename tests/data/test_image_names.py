"""The file of each image record, whatever form its name has, and nothing outside the images folder."""

import unicodedata
from pathlib import Path

import pytest

from htc.data.image_names import (
    BASE_NAME,
    CASE,
    OWN_FOLDER,
    PERCENT,
    SEPARATORS,
    UNICODE,
    ListedNames,
    distinct_names,
    leaves_folder,
    locate,
)
from htc.errors import DataError

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "z\u00fcrich.png") for form in ("NFC", "NFD"))


def folder_with(root: Path, *names: str) -> Path:
    folder = root / "data" / "train"
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def found(folder: Path, *names: str) -> list[tuple[str | None, str]]:
    """Path below the folder (None: missing) and difference of each name."""
    return [
        (None if one.missing else one.path.relative_to(folder).as_posix(), one.difference)
        for one in locate(folder, names)
    ]


@pytest.mark.parametrize(
    ("file", "name", "difference"),
    [
        ("a.png", "a.png", ""),
        ("cam0/a.png", "cam0/a.png", ""),
        ("a.png", "./a.png", SEPARATORS),
        ("cam0/a.png", "cam0\\a.png", SEPARATORS),
        ("cam0/a.png", ".\\cam0//./a.png", SEPARATORS),
        ("a.png", "train/a.png", OWN_FOLDER),
        ("a.png", "data\\train\\a.png", OWN_FOLDER),
        ("cam0/a.png", "train/cam0/a.png", OWN_FOLDER),
        ("train/a.png", "train/a.png", ""),
        ("train/a.png", "a.png", BASE_NAME),
        (DECOMPOSED, COMPOSED, UNICODE),
        (COMPOSED, DECOMPOSED, UNICODE),
        ("a b.png", "a%20b.png", PERCENT),
        ("a%20b.png", "a b.png", PERCENT),
        (DECOMPOSED, "z%C3%BCrich.png", PERCENT),
        ("a.JPG", "a.jpg", CASE),
        ("Cam0/A.png", "cam0/a.PNG", CASE),
        ("a.png", "upload/4/a.png", BASE_NAME),
        ("a.png", "upload\\4\\a.png", BASE_NAME),
        ("cam1/a.png", "frames/cam1/a.png", BASE_NAME),
        ("a\\b.png", "a\\b.png", ""),
    ],
)
def test_the_file_of_a_name(file: str, name: str, difference: str, tmp_path: Path) -> None:
    assert found(folder_with(tmp_path, file), name) == [(file, difference)]


@pytest.mark.parametrize(
    "name",
    [
        *("../secret/a.png", "..\\secret\\a.png", "x/../../secret/a.png", "..", "%2e%2e/secret/a.png"),
        *("x%5C..%5C..%5Ca.png", "/etc/a.png", "\\\\server\\share\\a.png", "C:\\data\\a.png", "c:/data/a.png"),
    ],
)
def test_names_that_leave_the_folder_are_never_looked_up(name: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.png", "secret/a.png")
    (tmp_path / "data" / "secret").mkdir()
    (tmp_path / "data" / "secret" / "a.png").write_bytes(b"")
    assert leaves_folder(name)
    assert found(folder, name) == [(None, "")]
    with pytest.raises(DataError, match="leaves the images folder"):
        ListedNames([(name, 1)])


@pytest.mark.parametrize("name", ["b.png", "", "\0", "a" * 5000, "cam0/" + "b" * 300, "\ud800.png", "cam0", "cam0/"])
def test_names_of_no_file_are_missing(name: str, tmp_path: Path) -> None:
    assert found(folder_with(tmp_path, "cam0/a.png"), name) == [(None, "")]


def test_a_name_that_several_files_may_have_is_missing(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "cam1/x.png", "cam2/x.png", "A.png", "a.PNG")
    assert found(folder, "x.png", "cam0/x.png", "a.png") == [(None, "")] * 3
    assert found(folder, "cam2/x.png", "frames/cam1/x.png") == [("cam2/x.png", ""), ("cam1/x.png", BASE_NAME)]


def test_one_file_is_not_that_of_two_records(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "x.png", "cam1/y.png")
    assert found(folder, "cam0/x.png", "cam1/x.png") == [(None, "")] * 2
    assert found(folder, "x.png", "cam1/x.png") == [("x.png", ""), (None, "")]
    assert found(folder, "y.png", "cam1/y.png") == [(None, ""), ("cam1/y.png", "")]
    assert found(folder, "cam0/x.png", "cam0/x.png") == [("x.png", BASE_NAME)] * 2


def test_equal_base_names_in_two_folders_are_two_images(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "cam0/x.png", "cam1/x.png")
    names = ("cam0\\x.png", "train/cam1/x.png")
    assert found(folder, *names) == [("cam0/x.png", SEPARATORS), ("cam1/x.png", OWN_FOLDER)]


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.png", "._a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", ".cache/b.png")
    assert found(folder, "upload/a.png", "upload/b.png") == [("a.png", BASE_NAME), (None, "")]


def test_links_are_followed_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "cam0/a.png")
    (folder / "cam1").symlink_to(folder, target_is_directory=True)
    assert found(folder, "upload/a.png") == [("cam0/a.png", BASE_NAME)]


LISTED = ListedNames([("images/cam1/a.png", 11), ("images/cam2/a.png", 22), ("b.png", 3), (COMPOSED, 4)])


@pytest.mark.parametrize(
    ("path", "name", "id"),
    [
        ("/d/images/cam1/a.png", "cam1/a.png", 11),
        ("/d/images/cam2/a.png", "a.png", 22),
        ("/d/cam2/a.png", "a.png", 22),
        ("/d/b.png", "b.png", 3),
        ("/d/B.PNG", "B.PNG", 3),
        ("/d/" + DECOMPOSED, DECOMPOSED, 4),
        ("/d/c.png", "c.png", None),
    ],
)
def test_the_record_of_a_file(path: str, name: str, id: int | None) -> None:
    assert LISTED.ids_of([(Path(path), name)]) == [id]


def test_ambiguous_records_are_errors() -> None:
    with pytest.raises(DataError, match="ambiguous"):
        LISTED.ids_of([(Path("/d/a.png"), "a.png")])
    with pytest.raises(DataError, match="ambiguous"):
        ListedNames([("b.png", 3), ("b.png", 4)]).ids_of([(Path("/d/b.png"), "b.png")])
    with pytest.raises(DataError, match="may both be the image"):
        LISTED.ids_of([(Path("/d/x/b.png"), "x/b.png"), (Path("/d/y/b.png"), "y/b.png")])
    assert LISTED.ids_of([(Path("/d/b.png"), "b.png"), (Path("/d/y/b.png"), "y/b.png")]) == [3, None]
    assert ListedNames([("a.png", 1), ("A.png", 2)]).ids_of([(Path("/d/x/A.png"), "x/A.png")]) == [2]


def test_an_id_by_the_base_name_alone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    names = ListedNames([("cam0/x.png", 1)])
    assert names.ids_of([(Path("/d/photos/x.png"), "x.png")]) == [1]
    assert "/d/photos/x.png is taken as the image cam0/x.png" in caplog.text
    caplog.clear()
    assert names.ids_of([(Path("/d/cam0/x.png"), "x.png"), (Path("/d/cam1/x.png"), "cam1/x.png")]) == [1, None]
    assert not caplog.text


@pytest.mark.parametrize(
    "paths",
    [
        ["a.png", "a.jpg", "cam0/a.png", "cam1/a.png", "A.png"],
        ["/x/y/a.png", "/z/x/y/a.png", "/q/z/x/y/a.png"],
        ["20240101_site_A_frame" + "0" * 80 + f"{n}.png" for n in range(3)],
        [f"{n}" + "0" * 80 + ".png" for n in range(3)],
        ["a.png", "a.png", "a-2.png"],
        [],
    ],
)
def test_short_names_stay_distinct(paths: list[str]) -> None:
    names = distinct_names([Path(path) for path in paths])
    assert len({name.casefold() for name in names}) == len(names) == len(paths)
    assert all(0 < len(name) <= 66 for name in names)


def test_distinct_names_are_the_stems_where_possible() -> None:
    assert distinct_names([Path("x/a.png"), Path("x/b.jpg")]) == ["a", "b"]
    assert distinct_names([Path("x/a.png"), Path("x/a.jpg")]) == ["a_png", "a_jpg"]

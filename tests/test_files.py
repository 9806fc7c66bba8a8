"""Files that appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from htc.errors import OutputError
from htc.files import whole_file, write_json, write_text


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):  # new files, and files that are replaced
            write_json(tmp_path / "a.json", {"a": 1})
            write_text(tmp_path / "folder" / "a.txt", "a")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("a.*")} == {mode}
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == mode | 0o111 & ~umask


def _interrupted(path: Path) -> None:
    with whole_file(path) as writer:
        writer.write(b"new")
        raise KeyboardInterrupt


def test_an_interruption_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "a.txt")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_file_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder: it is a folder: give the path of a file"):
        write_text(tmp_path / "folder", "a")

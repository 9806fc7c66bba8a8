"""Exported files of the small detector, made once for a session."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from htc.exporting import export


@dataclass(frozen=True)
class Exported:
    """What `exported.py` wrote and printed."""

    folder: Path
    stdout: str
    stderr: str

    @property
    def model(self) -> Path:
        """Native folder of the model."""
        return self.folder / "model"

    @property
    def onnx(self) -> Path:
        """The exported file."""
        return self.folder / "model.onnx"

    @contextmanager
    def as_translation(self) -> Iterator[None]:
        """Exports in this block write these files instead of tracing and translating the model."""

        def write(_translated, path, metadata, *, parts=False):
            import onnx

            content = onnx.load(self.folder / ("parts.onnx" if parts else "model.onnx"))
            onnx.helper.set_model_props(content, metadata)
            onnx.save(content, path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "trace", lambda *_: None)
            patch.setattr(export, "without_deform_conv2d", lambda _: None)
            patch.setattr(export, "translate", lambda *_: None)
            patch.setattr(export, "write_onnx", write)
            yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported_once(tmp_path_factory)


def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The files of all processes of a test run: the first one that asks exports, the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    printed = folder.with_name("exported.json")
    with FileLock(folder.with_name("exported.lock")):
        if not printed.exists():
            folder.mkdir()
            script = Path(__file__).with_name("exported.py")
            done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            printed.write_text(json.dumps([done.stdout, done.stderr]))
    return Exported(folder, *json.loads(printed.read_text()))

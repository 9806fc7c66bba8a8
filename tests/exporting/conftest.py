"""Exported files of the small detector, made once for a session."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

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
    folder = tmp_path_factory.mktemp("exported")
    script = Path(__file__).with_name("exported.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Exported(folder, done.stdout, done.stderr)

"""Exported files of the small detector, made once for a module."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


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


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    script = Path(__file__).with_name("exported.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Exported(folder, done.stdout, done.stderr)

"""What `import htc` offers, and what it costs."""

import subprocess
import sys

import pytest

import htc

NAMES = {
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "Dataset",
    "Detections",
    "Detector",
    "HTCError",
    "OutputError",
    "Predictor",
    "TrainingObjective",
    "__version__",
    "load",
}


def test_all_is_what_is_promised() -> None:
    assert set(htc.__all__) == NAMES
    assert set(dir(htc)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_can_be_had(name: str) -> None:
    assert getattr(htc, name) is not None


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="lod"):
        htc.lod  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    probe = (
        "import sys, htc; print([name for name in ('torch', 'numpy', 'pydantic', 'cv2', 'lightning') if name in "
        "sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )

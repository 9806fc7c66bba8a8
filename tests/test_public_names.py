"""What `import htc` offers, and what it costs."""

import subprocess
import sys
from importlib import import_module

import pytest

import htc
from htc import api

NAMES = {
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "Dataset",
    "Detections",
    "Detector",
    "ExportError",
    "HTCError",
    "InstallationError",
    "Metrics",
    "OutputError",
    "Predictor",
    "TrainingError",
    "TrainingObjective",
    "TrainingResult",
    "__version__",
    "doctor",
    "ensemble",
    "evaluate",
    "export",
    "list_models",
    "load",
    "train",
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


def test_functions_stay_functions_when_their_packages_are_imported() -> None:
    """A subpackage of the same name would take a function's place."""
    for name in ("doctor", "ensemble", "evaluate", "list_models", "load", "train"):
        assert callable(getattr(htc, name))
        with pytest.raises(ModuleNotFoundError):
            import_module(f"htc.{name}")


def test_the_api_module_names_the_same_functions() -> None:
    assert set(api.__all__) == {name for name in NAMES if callable(getattr(htc, name)) and name.islower()}
    assert all(getattr(htc, name) is getattr(api, name) for name in api.__all__)

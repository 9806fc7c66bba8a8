"""Settings of every test process: one thread each (xdist runs several) and shape checks of all annotated tensors."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before torch and numpy are imported
os.environ.setdefault("HTC_OFFLINE", "1")  # trainings look for no weights; tests of downloads have their own servers

import pytest
from hypothesis import settings

import shape_checks

shape_checks.install(("htc.ops", "htc.types", "htc.model", "htc.data", "htc.results", "htc.training"))

# The same examples in every run; `pytest --hypothesis-profile default` looks for new ones.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

CURVES = ("draw_losses", "draw_average_precision")


@pytest.fixture(scope="session", autouse=True)
def placeholder_curves() -> Iterator[None]:
    """Trainings in this process write empty files as curves, since drawing takes longer than a small training."""

    def write(path: Path, *_: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        for name in CURVES:
            patch.setattr(f"htc.training.history.{name}", write)
        yield


@pytest.fixture
def real_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings draw their curves, as they do for users."""
    from htc.visual import curves

    for name in CURVES:
        monkeypatch.setattr(f"htc.training.history.{name}", getattr(curves, name))

"""A torch and torchvision that do not fit together are named with both versions and the remedy."""

from importlib.metadata import PackageNotFoundError

import pytest

from htc.compatibility import check_torch
from htc.errors import InstallationError


def refusal(versions: dict[str, str], fails: dict[str, Exception] | None = None) -> str:
    def installed(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    def load(name: str) -> object:
        if fails and name in fails:
            raise fails[name]
        return object()

    with pytest.raises(InstallationError) as caught:
        check_torch(installed, load)
    return str(caught.value)


def test_the_installed_pair_is_accepted() -> None:
    check_torch()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operator torchvision::nms does not exist"),
        OSError("libcudart.so.13: cannot open shared object file"),
        ImportError("cannot import name 'x' from 'torch'"),
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
    ],
)
def test_an_import_that_fails_names_versions_and_remedy(error: Exception) -> None:
    message = refusal({"torch": "2.14.0+cpu", "torchvision": "0.29.1+cu132"}, {"torchvision": error})
    assert "torch 2.14.0+cpu and torchvision 0.29.1+cu132 do not work together" in message
    assert str(error) in message
    assert "pip install --upgrade --force-reinstall 'torch>=2.14' 'torchvision>=0.29'" in message


def test_an_old_torch_is_refused_without_importing_it() -> None:
    message = refusal({"torch": "2.13.1+cpu", "torchvision": "0.29.1+cu132"}, {"torch": AssertionError("imported")})
    assert "torch 2.14 or newer is needed" in message


def test_a_missing_package_is_named() -> None:
    assert "torchvision is not installed" in refusal({"torch": "2.15.0"})

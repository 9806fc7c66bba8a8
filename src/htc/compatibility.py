"""Check that the versions of torch and torchvision are compatible, before an unclear error of theirs occurs."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from htc.errors import InstallationError

MINIMUM_VERSIONS = {"torch": (2, 14), "torchvision": (0, 29)}


def check_torch(installed: Callable[[str], str] = version, load: Callable[[str], object] = import_module) -> None:
    """Import torch and torchvision, or raise `InstallationError` with both versions and the fix.

    It covers a torch that is too old, a torchvision built for another torch ("operator torchvision::nms does not
    exist"), a CPU build combined with a CUDA build, and a missing package.
    """
    versions = {name: _version(name, installed) for name in MINIMUM_VERSIONS}
    for name, needed in MINIMUM_VERSIONS.items():
        if versions[name] is None:
            raise InstallationError(_message(versions, f"{name} is not installed"))
        if _release(versions[name]) < needed:
            raise InstallationError(_message(versions, f"{name} {'.'.join(map(str, needed))} or newer is needed"))
    for name in MINIMUM_VERSIONS:
        try:
            load(name)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise InstallationError(
                _message(versions, f"importing {name} fails: {' '.join(str(error).split())[:200]}")
            ) from error


def _version(name: str, installed: Callable[[str], str]) -> str | None:
    try:
        return installed(name)
    except PackageNotFoundError:
        return None


def _release(text: str | None) -> tuple[int, int]:
    major, minor = (text or "0.0").split("+")[0].split(".")[:2]
    return int(major), int(minor)


def _message(versions: dict[str, str | None], fault: str) -> str:
    installed = " and ".join(f"{name} {release or '(missing)'}" for name, release in versions.items())
    requirements = " ".join(f"'{name}>={'.'.join(map(str, needed))}'" for name, needed in MINIMUM_VERSIONS.items())
    return (
        f"{installed} do not work together: {fault}.\nInstall both at once, from the same index:\n  pip install "
        f"--upgrade --force-reinstall {requirements}"
    )

"""Device names: the same words on the command line and in Python."""

import pytest

from htc.devices import SeveralDevicesError, parse_device
from htc.errors import ConfigError


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("auto", "auto"),
        ("cpu", "cpu"),
        ("mps", "mps"),
        ("cuda", "cuda"),
        ("cuda:3", "cuda:3"),
        ("0", "cuda:0"),
        (0, "cuda:0"),
        ("12", "cuda:12"),
        (" 1 ", "cuda:1"),
    ],
)
def test_names(device: str | int, name: str) -> None:
    assert parse_device(device) == name


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:-1", "-1", "cuda:x", "1.0", "CPU", -1])
def test_unknown_names_are_refused(device: str | int) -> None:
    with pytest.raises(ConfigError, match="is unknown: give auto, cpu, cuda, cuda:N, N "):
        parse_device(device)


@pytest.mark.parametrize(("device", "count"), [("0,1", 2), ("cuda:0,cuda:1", 2), ("0, 1, 2", 3), ("cuda:0,1", 2)])
def test_a_list_is_counted(device: str, count: int) -> None:
    with pytest.raises(SeveralDevicesError, match="is a list of") as caught:
        parse_device(device)
    assert caught.value.count == count

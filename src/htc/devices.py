"""The names of devices, as `--device` and `device=` accept them. Needs no torch."""

import re

from htc.errors import ConfigError

DEVICE_NAMES = "auto, cpu, cuda, cuda:N, N (the same as cuda:N) or mps"


class SeveralDevicesError(ConfigError):
    """A list of devices where one is expected; `count` is their number."""

    def __init__(self, device: object, count: int) -> None:
        super().__init__(f"device {device!r} is a list of {count}: give one of {DEVICE_NAMES}")
        self.count = count


def parse_device(device: str | int) -> str:
    """The name that torch has for a device, or "auto": 0 and "0" become "cuda:0".

    Whether the machine has that device is for `htc.inference.load.choose_device` to check. Raises `ConfigError` for an
    unknown name and for a list such as "0,1".

    Example:
        >>> parse_device("1")
        'cuda:1'
    """
    text = str(device).strip()
    if re.fullmatch(r"\d+", text):
        return f"cuda:{int(text)}"
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        return text
    if re.fullmatch(r"((cuda:)?\d+,)+(cuda:)?\d+", text.replace(" ", "").strip("[]()")):
        raise SeveralDevicesError(device, text.count(",") + 1)
    raise ConfigError(f"device {device!r} is unknown: give {DEVICE_NAMES}")

"""Device names that `--device` and `device=` accept. Does not import torch."""

import re

from htc.errors import ConfigError

DEVICE_NAMES = "auto, cpu, cuda, cuda:N, N (the same as cuda:N) or mps"


class SeveralDevicesError(ConfigError):
    """A list of `count` devices was given where a single device is expected."""

    def __init__(self, device: object, count: int) -> None:
        super().__init__(f"device {device!r} is a list of {count}: give one of {DEVICE_NAMES}")
        self.count = count


def parse_device(device: str | int) -> str:
    """Return the torch name of a device, or "auto": 0 and "0" become "cuda:0".

    `htc.inference.device.choose_device` checks whether the machine has the device. Raises `ConfigError` for an
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

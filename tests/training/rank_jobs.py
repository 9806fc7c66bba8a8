"""What the processes of `test_launch.py` do: each job is sent to a process of its own, which imports this module."""

import os
import signal
import time
from pathlib import Path

from htc.errors import DataError, ReportedElsewhereError
from htc.training.events import Message

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def is_second():
    return os.environ["RANK"] == "1"


def tell_environment(folder, listener):
    """Writes which process this is, and reports an event."""
    (Path(folder) / os.environ["RANK"]).write_text(" ".join(os.environ[name] for name in NAMES))
    listener(Message(f"from {os.environ['RANK']}"))
    return f"result of {os.environ['RANK']}"


def fail(how, listener):
    """The second process fails, the first waits."""
    if not is_second():
        time.sleep(60)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        raise SystemExit(3)
    raise DataError("image 7 cannot be read")


def report_elsewhere(listener):
    """The second process only reports that there is an error; the first reports it a little later."""
    if is_second():
        raise ReportedElsewhereError("image 7")
    time.sleep(1)
    raise DataError("image 7 cannot be read")


def wait_for_signal(folder, listener):
    """Both wait until a signal ends them, and note that they could finish."""
    path = Path(folder)
    (path / f"begun{os.environ['RANK']}").touch()
    try:
        time.sleep(60)
    finally:
        time.sleep(0.3)
        (path / f"ended{os.environ['RANK']}").touch()

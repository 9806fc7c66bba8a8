"""Start the processes of a training on several devices, as torchrun would, and do work on the first one only.

Imports torch only where several processes meet: the process that starts the others never needs it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from htc.errors import ConfigError
from htc.ranks import here

_T = TypeVar("_T")
POLL = 0.1
"""Seconds between two polls of the processes."""


def start_together(devices: int, nodes: int, command: Sequence[str] | None = None) -> int:
    """Runs `command` (None: this one) `devices` times here, as part of `nodes` machines; the exit code of the first
    that fails.

    When one fails, the others are terminated. An interruption or SIGTERM is passed on to all and then raised here, when
    they have ended. Raises `ConfigError` if there are several machines and the environment does not say which this is.
    """
    words = {**_meeting_point(nodes), "WORLD_SIZE": str(devices * nodes), "LOCAL_WORLD_SIZE": str(devices)}
    node = int(os.environ.get("NODE_RANK", "0"))
    # a session of their own: Ctrl-C comes to this process alone and reaches each of them once
    processes = [
        subprocess.Popen(
            command or [sys.executable, "-m", "htc", *sys.argv[1:]],
            env={**os.environ, **words, "RANK": str(node * devices + i), "LOCAL_RANK": str(i), "GROUP_RANK": str(node)},
            start_new_session=True,
        )
        for i in range(devices)
    ]
    try:
        return _first_failure(processes)
    except KeyboardInterrupt:
        _pass_on(processes, signal.SIGINT)
        raise
    except BaseException:
        _pass_on(processes, signal.SIGTERM)
        raise


def on_first_process(device: str, work: Callable[[], _T]) -> _T:
    """The result of `work`, which the first process alone runs, on every process; a single process just runs it.

    Several processes meet first, on `device` (`auto`, `cpu`, `cuda`). Raises what `htc.training.distributed.by_first`
    raises.
    """
    if here().ranks == 1:
        return work()
    from htc.inference.load import choose_device
    from htc.training.distributed import by_first, join_processes

    join_processes(choose_device(device).type)
    return by_first(work)


def _meeting_point(nodes: int) -> dict[str, str]:
    if nodes == 1:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--nodes {nodes} needs {', '.join(missing)} in the environment: the first machine's address, a free port "
            f"there, and which machine this is "
            "(0, 1, ...); or start `htc train` by torchrun or srun, which say all that"
        )
    return {name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT")}


def _first_failure(processes: Sequence["subprocess.Popen[bytes]"]) -> int:
    """Waits for all; 0, or the exit code of the first that failed (128 + the signal that ended it)."""
    failed = 0
    while any(process.poll() is None for process in processes):
        codes = [code for process in processes if (code := process.poll())]
        if codes and not failed:
            failed = codes[0]
            _pass_on([process for process in processes if process.poll() is None], signal.SIGTERM)
        time.sleep(POLL)
    failed = failed or next((process.returncode for process in processes if process.returncode), 0)
    return failed if failed >= 0 else 128 - failed


def _pass_on(processes: Sequence["subprocess.Popen[bytes]"], sent: signal.Signals) -> None:
    """Sends the signal and waits: each writes what it has to write. A second Ctrl-C while waiting is passed on too."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(sent)
    try:
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        _pass_on(processes, signal.SIGINT)

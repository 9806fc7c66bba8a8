"""Train in several processes on this machine, and do work in the first process only.

`run_in_processes` starts one process for each device and forwards their events and errors to the calling process;
under torchrun and srun the processes already exist. The process that starts the others does not import torch.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Generic, TypeVar

from htc.errors import ConfigError, HTCError, ReportedElsewhereError, TrainingError
from htc.ranks import here
from htc.training.events import Listener

_T = TypeVar("_T")
RANK = "htc rank"
"""Prefix of the process names."""
PATIENCE = 30.0
"""Seconds to wait for the error itself after another process reported only that one occurred."""


def run_in_processes(job: Callable[[Listener], _T], devices: int, nodes: int, listener: Listener) -> _T:
    """Run `job(listener)` in `devices` processes on each of `nodes` machines and return the result of the first one.

    Events of the first process go to `listener`. If a process fails, the others are terminated and its error is raised.
    An interruption or SIGTERM is forwarded to all processes, which write their checkpoint, and is then raised here.
    Raises `ConfigError` if there are several machines and the environment does not define this one's rank, and
    `TrainingError` for a process that ended without reporting an error.
    """
    check_not_imported_by_rank()
    group: _Group[_T] = _Group(job, devices, nodes, listener)
    with _termination_raises():
        try:
            group.start()
            group.follow()
        except KeyboardInterrupt:
            group.pass_on(signal.SIGINT)
            raise
        except BaseException:
            group.pass_on(signal.SIGTERM)
            raise
    return group.result()


def check_can_be_sent(options: Mapping[str, Any], callbacks: Sequence[Any], loggers: Sequence[Any]) -> None:
    """Raise a `ConfigError` that names every object that cannot be pickled for another process."""
    named = [
        *options.items(),
        *((f"callback {type(one).__name__}", one) for one in callbacks),
        *((f"logger {type(one).__name__}", one) for one in loggers),
    ]
    refused = [f"{name}: {reason}" for name, value in named if (reason := _not_sent(value)) is not None]
    if refused:
        listed = "; ".join(refused)
        raise ConfigError(
            f"several processes need picklable objects, and these are not: {listed}. Change them, or use devices=1"
        )


def _not_sent(value: Any) -> str | None:
    """Return the reason why a value cannot be sent to another process; None if it can."""
    try:
        content = pickle.dumps(value)
    except Exception as error:
        return str(error)
    interactive = getattr(sys.modules["__main__"], "__file__", None) is None
    if interactive and b"__main__" in content:
        return "it is defined in a notebook or an interactive session: define it in a module and import it"
    return None


def check_not_imported_by_rank() -> None:
    """Raise `ConfigError` if a training process runs the script that started it, which it imports for its classes."""
    if multiprocessing.current_process().name.startswith(RANK):
        raise ConfigError(
            "each process of a training with several devices imports this script: put the call of htc.train under "
            "`if __name__ == '__main__':`"
        )


def on_first_process(device: str, work: Callable[[], _T]) -> _T:
    """Run `work` on the first process only and return its result on every process.

    Several processes first join their process group, on `device` (`auto`, `cpu`, `cuda`). Raises what
    `htc.training.distributed.by_first` raises.
    """
    if here().ranks == 1:
        return work()
    from htc.inference.device import choose_device
    from htc.training.distributed import by_first, join_processes

    join_processes(choose_device(device).type)
    return by_first(work)


@dataclass
class _Rank:
    """A child process and what it has sent to its parent."""

    process: BaseProcess
    messages: Connection
    result: Any = None
    error: BaseException | None = None
    ended: bool = False


@dataclass
class _Group(Generic[_T]):
    """The processes of a training on this machine."""

    job: Callable[[Listener], _T]
    devices: int
    nodes: int
    listener: Listener
    ranks: list[_Rank] = field(default_factory=list)
    terminated: bool = False

    def start(self) -> None:
        """Start the processes."""
        shared = {
            **_meeting_point(self.nodes),
            "WORLD_SIZE": str(self.devices * self.nodes),
            "LOCAL_WORLD_SIZE": str(self.devices),
        }
        node = int(os.environ.get("NODE_RANK", "0"))
        context = multiprocessing.get_context("spawn")
        for local in range(self.devices):
            rank = node * self.devices + local
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(local), "GROUP_RANK": str(node)}
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_run_rank, args=(self.job, own, sender), name=f"{RANK} {rank}")
            process.start()
            sender.close()  # the parent's copy: when the child's own copy closes, the child has ended
            self.ranks.append(_Rank(process, receiver))

    def follow(self) -> None:
        """Forward events until all processes have ended; terminate the others when one fails."""
        while running := [rank for rank in self.ranks if not rank.ended]:
            failed = [rank for rank in self.ranks if rank.error is not None]
            elsewhere = bool(failed) and all(isinstance(rank.error, ReportedElsewhereError) for rank in failed)
            ready = wait([rank.messages for rank in running], PATIENCE if elsewhere else None)
            for rank in running:
                if rank.messages in ready:
                    self._receive(rank)
            failed = [rank for rank in self.ranks if rank.error is not None]
            reported = any(not isinstance(rank.error, ReportedElsewhereError) for rank in failed)
            if failed and not self.terminated and (reported or not ready):
                self.terminated = True
                self._send(signal.SIGTERM)

    def pass_on(self, number: signal.Signals) -> None:
        """Send a signal to all processes and wait until each has written its checkpoint. Forwards a second Ctrl-C."""
        self._send(number)
        while any(not rank.ended for rank in self.ranks):
            try:
                for rank in self.ranks:
                    if not rank.ended:
                        self._receive(rank)
            except KeyboardInterrupt:
                self._send(signal.SIGINT)

    def result(self) -> _T:
        """Return the result of the first process, or raise the first error."""
        errors = [rank.error for rank in self.ranks if rank.error is not None]
        own = [error for error in errors if not isinstance(error, ReportedElsewhereError)]
        if errors:
            raise (own or errors)[0]
        return self.ranks[0].result

    def _receive(self, rank: _Rank) -> None:
        """Receive one message of a process, or notice its end."""
        try:
            kind, value = rank.messages.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # the last if an interruption cut a message in two
            rank.ended = True
            rank.process.join()
            if rank.result is None and rank.error is None:
                failed_elsewhere = any(other.error is not None for other in self.ranks)
                rank.error = ReportedElsewhereError("terminated") if failed_elsewhere else _sudden_end(rank.process)
            return
        if kind == "event":
            self.listener(value)
        elif kind == "result":
            rank.result = value
        else:
            rank.error = value

    def _send(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            if not rank.ended and rank.process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(rank.process.pid, number)


def _sudden_end(process: BaseProcess) -> BaseException:
    code = process.exitcode or 0
    if code < 0:
        cause = f"was killed by {signal.Signals(-code).name}"
        cause += ", probably because memory ran out" if -code == signal.SIGKILL else ""
    else:
        cause = f"ended with exit code {code}; its own message is above"
    return TrainingError(
        f"{process.name.removeprefix('htc ')} of the training {cause}. Resume the training to continue"
    )


def _run_rank(job: Callable[[Listener], Any], environment: Mapping[str, str], messages: Connection) -> None:
    """Entry point of a child process: run the job and send events, the result or the error to the parent."""
    if os.name == "posix":
        os.setsid()  # Ctrl-C reaches only the parent, which forwards it: each process receives it once
    os.environ |= environment
    multiprocessing.current_process().name = f"rank {environment['RANK']}"
    signal.signal(signal.SIGTERM, _terminated)
    first = environment["RANK"] == "0"
    with _reported(messages):
        result = job(lambda event: messages.send(("event", event)) if first else None)
        messages.send(("result", result if first else True))


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Raise `SystemExit` on SIGTERM, which would end this process without a word to the others; a handler that is
    already there stays.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def _reported(messages: Connection) -> Iterator[None]:
    """Send an error of the block to the parent; an unexpected exception keeps its traceback on standard error."""
    try:
        yield
    except HTCError as error:
        messages.send(("error", error))
    except KeyboardInterrupt:
        messages.send(("error", KeyboardInterrupt()))


def _meeting_point(nodes: int) -> dict[str, str]:
    if nodes == 1:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--nodes {nodes} needs {', '.join(missing)} in the environment: the first machine's address, a free port "
            f"there, and the index of this machine (0, 1, ...); or start `htc train` with torchrun or srun, which set "
            f"them"
        )
    return {name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT")}

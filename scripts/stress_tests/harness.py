"""Run the cases of a stress test in worker processes, and record every failure.

A case is a function of an index and a random generator that depends on seed and index alone, so each failure can be
repeated by itself. A worker that crashes, hangs or takes too much memory is a failure of its case, and another worker
goes on with the next one.
"""

import json
import multiprocessing
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
MEBI = 1 << 20
Case = Callable[[int, random.Random, Path], str | None]
"""Run one case in its own empty folder; return what is wrong, or None. Any exception is a failure too."""


@dataclass(frozen=True)
class Stress:
    """A stress test."""

    name: str
    what: str
    """One line for the help and the record."""
    count: int
    """Cases at full size."""
    prepare: Callable[[Path], Case]
    """Make what the cases share, in an empty folder; called once, before the workers are forked."""
    seconds: float = 60.0
    """Time limit of a case."""
    mebibytes: int | None = 1024
    """Limit of the memory that a case takes above what the worker had before; None without a limit."""
    at_least: int = 1
    """Minimum number of cases at any share, where fewer would show nothing."""
    workers: int | None = None
    """Number of worker processes; None: one for each CPU core."""


@dataclass
class Record:
    """The outcome of a stress test, as written to NAME.json."""

    name: str
    what: str
    command: str
    count: int
    seed: int
    commit: str
    platform: str
    failures: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    peak_mebibytes: float = 0.0
    """Largest memory of a case above what its worker had before."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What the cases reported with `report`."""

    def line(self) -> str:
        """Return the result in one line."""
        figures = "".join(f", {name} {value}" for name, value in self.figures.items())
        return (
            f"{self.name}: {self.count} cases, {len(self.failures)} failures, seed {self.seed}, commit {self.commit}, "
            f"{self.seconds:.0f} s{figures}"
        )


def report(name: str, value: float) -> None:
    """Report a figure of the running case; the record keeps its smallest and largest value."""
    _FIGURES[name] = value


def describe(what: str) -> None:
    """Describe the running case for the message if it hangs or crashes."""
    for answers in _ANSWERS:
        answers.send(what)


_FIGURES: dict[str, float] = {}
_ANSWERS: list[Connection] = []
"""In a worker: the pipe to the harness."""


def run_stress(stress: Stress, count: int, seed: int, folder: Path, only: Sequence[int] | None = None) -> Record:
    """Run `count` cases (or those of `only`); write NAME.log, a line for each failure, and NAME.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(stress.name, stress.what, " ".join(sys.argv), count, seed, commit(), versions())
    begin = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f"htc-stress-{stress.name}-"))
    shared = work / "shared"
    shared.mkdir()
    case = stress.prepare(shared)
    waiting = list(range(count) if only is None else only)[::-1]
    wanted = min(stress.workers or os.cpu_count() or 1, max(1, len(waiting)))
    workers = [_Worker(stress, case, seed, work) for _ in range(wanted)]
    with (folder / f"{stress.name}.log").open("w", encoding="utf-8") as log:

        def failed(index: int, message: str) -> None:
            record.failures.append({"index": index, "message": message[-4000:]})
            frames = [line.strip() for line in message.splitlines() if line.startswith("  File ")]
            where = f" ({frames[-1]})" if frames else ""
            log.write(f"{index} seed {seed}: {message.strip().splitlines()[-1][:1000]}{where}\n")
            log.flush()

        try:
            while waiting or any(one.index is not None for one in workers):
                for one in workers:
                    if one.index is None and waiting:
                        one.begin(waiting.pop())
                wait([one.answers for one in workers if one.index is not None], timeout=0.05)
                for place, one in enumerate(workers):
                    _collect(one, record, failed)
                    if not one.alive:
                        workers[place] = _Worker(stress, case, seed, work)
        finally:
            for one in workers:
                one.end()
            _remove(work)
    record.failures.sort(key=lambda failure: failure["index"])
    record.seconds = time.monotonic() - begin
    (folder / f"{stress.name}.json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    return record


def _collect(worker: "_Worker", record: Record, failed: Callable[[int, str], None]) -> None:
    """Take a worker's answer to its case, or find out why there will be none."""
    if worker.index is None:
        return
    index, outcome = worker.index, worker.outcome()
    if outcome is None:
        return
    message, taken, figures = outcome
    record.peak_mebibytes = max(record.peak_mebibytes, round(taken, 1))
    for name, value in figures.items():
        low, high = record.figures.get(name, (value, value))
        record.figures[name] = (min(low, value), max(high, value))
    if message is not None:
        failed(index, message)


class _Worker:
    """A forked process that runs one case after the other."""

    def __init__(self, stress: Stress, case: Case, seed: int, work: Path):
        context = multiprocessing.get_context("fork")
        self.answers, theirs = context.Pipe()
        self.stress, self.index, self.since, self.before, self.alive = stress, None, 0.0, 0.0, True
        self.about = ""
        self.index: int | None
        # Not a multiprocessing.Process: its exit would wait for processes that a case has left behind.
        self.pid = os.fork()
        if self.pid == 0:
            self.answers.close()
            _serve(theirs, stress, case, seed, work)
        theirs.close()

    def begin(self, index: int) -> None:
        """Give the worker a case."""
        self.before = memory_of(self.pid)
        self.index, self.since, self.about = index, time.monotonic(), ""
        with suppress(OSError):
            self.answers.send(index)

    def outcome(self) -> tuple[str | None, float, dict[str, float]] | None:
        """Return (failure, memory in MiB, figures) of the case, or None while it runs."""
        limit = self.stress.mebibytes
        try:
            while self.answers.poll():
                answer = self.answers.recv()
                if isinstance(answer, str):
                    self.about = f"{answer}: "
                    continue
                message, taken, figures = answer
                if message is None and limit is not None and taken > limit:
                    message = f"took {taken:.0f} MiB of memory above the {limit} MiB that are allowed"
                self.index = None
                return message, taken, figures
        except (EOFError, OSError):
            return self._lost(), 0.0, {}
        taken = memory_of(self.pid) - self.before
        if limit is not None and taken > 2 * limit:  # before the machine runs out of memory
            return self._ended(f"took more than {taken:.0f} MiB of memory"), taken, {}
        if time.monotonic() - self.since > self.stress.seconds:
            return self._ended(f"did not end within {self.stress.seconds:.0f} s"), taken, {}
        return None

    def _lost(self) -> str:
        """Describe how the process ended by itself."""
        self.index, self.alive = None, False
        _, status = os.waitpid(self.pid, 0)
        self.answers.close()
        code = os.waitstatus_to_exitcode(status)
        return f"{self.about}the process crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"

    def _ended(self, reason: str) -> str:
        self.index, self.alive = None, False
        self._kill()
        return self.about + reason

    def _kill(self) -> None:
        for kill in (os.killpg, os.kill):  # a new process may not have its group yet
            with suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.answers.close()

    def end(self) -> None:
        """End the process, with all that its cases have started."""
        if self.alive:
            self._kill()


def _serve(requests: Connection, stress: Stress, case: Case, seed: int, work: Path) -> None:
    """Run the cases that are asked for, and never return: the life of a worker."""
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    folder = work / str(os.getpid())
    _ANSWERS.append(requests)
    while True:
        try:
            index = requests.recv()
        except EOFError:
            os._exit(0)
        folder.mkdir()
        before = reset_peak()
        _FIGURES.clear()
        try:
            message = case(index, random.Random(f"{stress.name} {seed} {index}"), folder)
        except BaseException:
            message = traceback.format_exc()
        requests.send((message, peak_memory() - before, dict(_FIGURES)))
        _remove(folder)


def memory_of(pid: int, name: str = "VmRSS") -> float:
    """Return the memory of a process in MiB: in use now, or the largest with "VmHWM"; 0 if it is gone."""
    with suppress(OSError, StopIteration, ProcessLookupError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024
    return 0.0


def reset_peak() -> float:
    """Reset the peak of this process to the memory in use now, and return that in MiB; where the system does not allow
    it, the peak so far.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> float:
    """Return the peak memory of this process in MiB since `reset_peak`."""
    return memory_of(os.getpid(), "VmHWM")


def _remove(folder: Path) -> None:
    """Remove a folder and what is in it, also where a case took the permissions away."""
    for root, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(root, name).unlink(missing_ok=True)
        for name in folders:
            path = Path(root, name)
            path.unlink() if path.is_symlink() else path.rmdir()
    folder.rmdir()


def commit() -> str:
    """Return the commit of the project, with a + if files differ from it."""
    git = ["git", "-C", str(PROJECT)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if found.returncode:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def versions() -> str:
    """Return the system and the versions that a result depends on."""
    import numpy
    import torch

    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, torch "
        f"{torch.__version__}, NumPy {numpy.__version__}"
    )

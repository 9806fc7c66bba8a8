"""From arguments to an exit code: 0 done, 1 part of the work failed, 2 the call or all input is unusable, 130
interrupted, 143 terminated.
"""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from types import FrameType
from typing import TextIO
from warnings import warn

from cyclopts import App, CycloptsError, Group

from htc.cli.commands import (
    COMMANDS,
    GROUPS,
    OVERVIEW,
    Command,
    epilogue,
    unknown_command,
    with_current_flags,
)
from htc.cli.messages import explain
from htc.cli.output import say
from htc.compatibility import check_torch
from htc.errors import ConfigError, HTCError, RenamedWarning, ReportedElsewhereError
from htc.files import REMEDIES
from htc.ranks import here

DONE, PARTLY, UNUSABLE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

STANDALONE = ("-h", "--help", "--version")
"""Flags that need no command."""


class Terminated(BaseException):
    """SIGTERM, as an exception, so that files and processes are closed on the way out."""


def function_of(name: str) -> Callable[..., int | None]:
    """The function of a command; its module is imported when the command is called."""
    return getattr(import_module(f"htc.cli.{name}"), name)


def build(verb: str | None = None) -> App:
    """The command line: one command with its options, or all by name and summary."""
    app = App(
        name="htc",
        help="Instance segmentation with Hybrid Task Cascade, Cascade Mask R-CNN and Mask R-CNN.",
        version=lambda: version("hybrid-task-cascade"),
        help_format="markdown",
        help_epilogue=None if verb else OVERVIEW,
        group_commands=Group("Options", sort_key=len(GROUPS)),
        suppress_keyboard_interrupt=False,
    )
    if verb is not None:
        _register(app, COMMANDS[verb])
        return app
    groups = {name: Group(name, sort_key=position) for position, name in enumerate(GROUPS)}
    for position, command in enumerate(COMMANDS.values()):
        app.command(
            f"htc.cli.{command.name}:{command.name}",
            name=command.name,
            help=command.summary,
            group=groups[command.group],
            sort_key=position,
        )
    return app


def _register(app: App, command: Command) -> None:
    function = function_of(command.name)
    app.command(
        function,
        name=command.name,
        usage=None if command.usage is None else f"Usage: htc {command.name} {command.usage}",
        help_epilogue=epilogue(command, settings="flags" in signature(function).parameters),
    )


def run(arguments: Sequence[str]) -> int:
    """Run one call and return its exit code; every foreseen fault is a message on stderr, never a traceback."""
    try:
        with _termination(), _messages_on_stderr():
            code = _call(arguments)
            sys.stdout.flush()
        return code
    except CycloptsError as error:
        return _fail(explain(error, arguments))
    except ReportedElsewhereError:
        return UNUSABLE
    except HTCError as error:
        from htc.checkpoint.download import FetchError

        return _fail(str(error), PARTLY if isinstance(error, FetchError) else UNUSABLE)
    except BrokenPipeError:  # the reader of our output has left; Python would complain once more while closing stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PARTLY
    except OSError as error:
        return _fail(
            f"{error.filename or 'standard output or a file'}: "
            f"{REMEDIES.get(error.errno or 0, error.strerror or error)}"
        )
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Terminated:
        return _fail("terminated", TERMINATED)


def _call(arguments: Sequence[str]) -> int:
    verb = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if verb is None:
        if arguments and arguments[0] not in STANDALONE:
            raise ConfigError(f"unknown option {arguments[0]}: the command comes first, as in htc train --data DIR")
        command, bound, _ = build().parse_args(list(arguments), exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs) or DONE
    if verb not in COMMANDS:
        raise ConfigError(unknown_command(verb))
    arguments, replaced = with_current_flags(COMMANDS[verb], arguments)
    for old, new in replaced:
        warn(f"{old} is now called {new}; the old name goes with the next release", RenamedWarning, stacklevel=1)
    app = build(verb)
    from htc.cli.options import split

    own = {name for argument in app[verb].assemble_argument_collection() for name in argument.names}
    rest, flags = split(arguments, own)
    command, bound, injected = app.parse_args(rest, exit_on_error=False, print_error=False)
    if flags and "flags" not in injected:
        raise ConfigError(f"--{flags[0][0]}: `htc {verb}` takes no settings of the configuration")
    extra = {"flags": flags} if "flags" in injected else {}
    try:
        return command(*bound.args, **bound.kwargs, **extra) or DONE
    except (ImportError, RuntimeError, AttributeError):
        check_torch()  # raises with the remedy if torch and torchvision are what failed
        raise


def _fail(message: str, code: int = UNUSABLE) -> int:
    process = here()
    if process.rank == 0:
        say(f"htc: {message}")
    elif code not in (INTERRUPTED, TERMINATED):  # those come to all of them
        print(f"htc (process {process.rank} of {process.ranks}): {message}", file=sys.stderr)
    return code


class _Lines(logging.Handler):
    """Records of the library's log as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "htc: warning: " if record.levelno >= logging.WARNING else ""
        say(f"{prefix}{record.getMessage()}")


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """While a command runs, the library's log and each `RenamedWarning`, once, are lines on stderr."""
    log, lines, seen = logging.getLogger("htc"), _Lines(), set[str]()
    level = log.level

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, RenamedWarning):
            others(message, category, filename, lineno, file, line)
        elif str(message) not in seen:
            seen.add(str(message))
            say(f"htc: warning: {message}")

    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", RenamedWarning)
            others, warnings.showwarning = warnings.showwarning, show
            yield
    finally:
        log.removeHandler(lines)
        log.setLevel(level)


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM raises `Terminated` while the verb runs (signals can be set in the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

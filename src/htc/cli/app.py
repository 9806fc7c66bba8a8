"""Entry point of the command line. Exit codes: 0 success, 1 part of the work failed, 2 the call or all input is
invalid, 130 interrupted, 143 terminated.
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
from htc.cli.output import print_message
from htc.compatibility import check_torch
from htc.errors import ConfigError, HTCError, RenamedWarning, ReportedElsewhereError
from htc.files import REMEDIES
from htc.ranks import here

DONE, PARTLY, UNUSABLE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

STANDALONE = ("-h", "--help", "--version")
"""Flags that are valid without a command."""


class Terminated(BaseException):
    """Raised at SIGTERM, so that files and processes are closed before the program exits."""


def function_of(name: str) -> Callable[..., int | None]:
    """Import and return the function of a command."""
    return getattr(import_module(f"htc.cli.{name}"), name)


def build(name: str | None = None) -> App:
    """Build the parser: of one command with its options, or of the list of commands with their summaries."""
    app = App(
        name="htc",
        help="Instance segmentation with Hybrid Task Cascade, Cascade Mask R-CNN and Mask R-CNN.",
        version=lambda: version("hybrid-task-cascade"),
        help_format="markdown",
        help_epilogue=None if name else OVERVIEW,
        group_commands=Group("Options", sort_key=len(GROUPS)),
        suppress_keyboard_interrupt=False,
    )
    if name is not None:
        _register(app, COMMANDS[name])
        return app
    groups = {title: Group(title, sort_key=position) for position, title in enumerate(GROUPS)}
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
    """Run one call and return its exit code; expected errors are printed on stderr without a traceback."""
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
    except BrokenPipeError:  # stdout was closed, as by `head`; without dup2 Python would report it again at exit
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
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None:
        if arguments and arguments[0] not in STANDALONE:
            raise ConfigError(f"unknown option {arguments[0]}: the command comes first, as in htc train --data DIR")
        command, bound, _ = build().parse_args(list(arguments), exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs) or DONE
    if name not in COMMANDS:
        raise ConfigError(unknown_command(name))
    arguments, replaced = with_current_flags(COMMANDS[name], arguments)
    for old, new in replaced:
        warn(f"{old} is now called {new}; the next release rejects the old name", RenamedWarning, stacklevel=1)
    app = build(name)
    from htc.cli.options import split

    own = {flag for argument in app[name].assemble_argument_collection() for flag in argument.names}
    rest, flags = split(arguments, own)
    command, bound, injected = app.parse_args(rest, exit_on_error=False, print_error=False)
    if flags and "flags" not in injected:
        raise ConfigError(f"--{flags[0][0]}: `htc {name}` takes no settings of the configuration; remove the flag")
    extra = {"flags": flags} if "flags" in injected else {}
    try:
        return command(*bound.args, **bound.kwargs, **extra) or DONE
    except (ImportError, RuntimeError, AttributeError):
        check_torch()  # raises a message with the fix if torch or torchvision is the cause
        raise


def _fail(message: str, code: int = UNUSABLE) -> int:
    process = here()
    if process.rank == 0:
        print_message(f"htc: {message}")
    elif code not in (INTERRUPTED, TERMINATED):  # every process receives these signals
        print(f"htc (rank {process.rank}, world size {process.ranks}): {message}", file=sys.stderr)
    return code


class _Lines(logging.Handler):
    """Print the records of the library's log on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "htc: warning: " if record.levelno >= logging.WARNING else ""
        print_message(f"{prefix}{record.getMessage()}")


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Print the library's log, and each `RenamedWarning` once, on stderr while a command runs."""
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
            print_message(f"htc: warning: {message}")

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
    """Raise `Terminated` at SIGTERM while a command runs; handlers can be set in the main thread only."""
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

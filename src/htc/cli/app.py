"""From arguments to an exit code: 0 done, 1 part of the work failed, 2 the call or all input is unusable, 130
interrupted, 143 terminated.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from inspect import signature
from types import FrameType

from cyclopts import App, CycloptsError

from htc.checkpoint.download import FetchError
from htc.cli.ablate import ablate
from htc.cli.benchmark import benchmark
from htc.cli.convert import convert
from htc.cli.demo import demo
from htc.cli.doctor import doctor
from htc.cli.evaluate import evaluate
from htc.cli.models import models
from htc.cli.options import SETTINGS, USAGE, explain, split
from htc.cli.output import say
from htc.cli.predict import predict
from htc.cli.train import train
from htc.compatibility import check_torch
from htc.errors import ConfigError, HTCError, ReportedElsewhereError
from htc.files import REMEDIES
from htc.ranks import here

DONE, PARTLY, UNUSABLE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
VERBS = (demo, models, predict, train, evaluate, ablate, convert, doctor, benchmark)


class Terminated(BaseException):
    """SIGTERM, as an exception, so that files and processes are closed on the way out."""


def build() -> App:
    """The command line with all its verbs."""
    app = App(
        name="htc",
        help="Hybrid Task Cascade, Cascade Mask R-CNN and Mask R-CNN: train, evaluate, use.",
        version=lambda: version("hybrid-task-cascade"),
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
    )
    for verb in VERBS:
        name = verb.__name__
        usage = f"Usage: htc {name} {USAGE[name]}" if name in USAGE else None
        app.command(
            verb,
            usage=usage,
            help_epilogue=SETTINGS if "flags" in signature(verb).parameters else None,
            sort_key=VERBS.index(verb),
        )
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one call and return its exit code; every foreseen fault is a message on stderr, never a traceback."""
    try:
        with _termination():
            code = _call(arguments)
            sys.stdout.flush()
        return code
    except CycloptsError as error:
        return _fail(explain(error))
    except ReportedElsewhereError:
        return UNUSABLE
    except HTCError as error:
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
    app = build()
    verb = arguments[0] if arguments and not arguments[0].startswith("-") and arguments[0] in app else None
    own = {name for argument in app[verb].assemble_argument_collection() for name in argument.names} if verb else set()
    rest, flags = split(arguments, own) if verb else (list(arguments), [])
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

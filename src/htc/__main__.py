"""The command line: `htc` or `python -m htc`."""

import sys


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    try:
        from htc.cli.app import (
            run,
        )  # here, so that an interruption while it is being imported is none of a traceback either

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()

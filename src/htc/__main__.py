"""The command line: `htc` or `python -m htc`."""

import sys

from htc.cli.app import run


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

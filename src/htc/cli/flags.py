"""Configuration flags such as `--cascade.interleaved false`: taken out of the arguments before the verb's own flags
are read.
"""

from collections.abc import Collection, Sequence

from htc.config import Config
from htc.errors import ConfigError


def split(arguments: Sequence[str], own: Collection[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """(the verb's arguments, the configuration's (name, text) pairs).

    A flag belongs to the configuration if its name holds a dot, or names a section and is not among the verb's `own`
    flags. Raises `ConfigError` for a configuration flag without a value.
    """
    rest: list[str] = []
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            rest += [argument, *arguments[position:]]
            break
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not _is_setting(name, own):
            rest.append(argument)
            continue
        if not equals:
            if position == len(arguments) or arguments[position].startswith("--"):
                raise ConfigError(f"{argument} needs a value, as in {argument} VALUE")
            value = arguments[position]
            position += 1
        found.append((name, value))
    return rest, found


def _is_setting(name: str, own: Collection[str]) -> bool:
    section = name.split(".")[0].replace("-", "_")
    return "." in name or (f"--{name}" not in own and section in Config.model_fields)

"""The original's configuration text, as it lies in a checkpoint's `meta`: Python assignments, read as literals and
never executed.
"""

import ast
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

_LONGEST = 1_000_000
_LARGEST = 1e15  # far above any setting; without a bound, repeated squaring would fill the memory


class _Unknown:
    """Stands for an expression that is no literal."""


UNKNOWN = _Unknown()
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def read_config_text(text: str) -> dict[str, Any]:
    """The assignments of a configuration file as plain values.

    Understands constants, tuples, lists, dicts, `dict(...)`, numbers' arithmetic and names assigned before; whatever
    else there is (imports, calls, comprehensions) is left out, not run. Text that is no Python gives an empty result.
    """
    if len(text) > _LONGEST:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\\d" in somebody's Windows paths
            statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    names: dict[str, Any] = {}
    for statement in statements:
        if (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(statement.targets[0], ast.Name)
        ):
            try:
                value = _value(statement.value, names)
            except (RecursionError, ArithmeticError):
                continue
            if value is not UNKNOWN:
                names[statement.targets[0].id] = value
    return names


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return _sensible(value)
        case ast.Name(id=name):
            return names.get(name, UNKNOWN)
        case ast.List(elts=parts):
            return [_value(part, names) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_value(part, names) for part in parts)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, names)
            return -value if isinstance(value, int | float) else UNKNOWN
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, names), _value(right, names)
            known = isinstance(a, int | float) and isinstance(b, int | float) and type(op) in _ARITHMETIC
            return _sensible(_ARITHMETIC[type(op)](a, b)) if known else UNKNOWN
        case ast.Dict(keys=keys, values=values):
            pairs = [
                (None if key is None else _value(key, names), _value(value, names))
                for key, value in zip(keys, values, strict=True)
            ]
            return _dict(pairs)
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return _dict([(keyword.arg, _value(keyword.value, names)) for keyword in keywords])
    return UNKNOWN


def _sensible(value: Any) -> Any:
    return (
        UNKNOWN if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _LARGEST) else value
    )


def _dict(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Entries with literal text keys and known values; a key of None is `**other`."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key is None and isinstance(value, dict):
            result.update(value)
        elif isinstance(key, str) and value is not UNKNOWN:
            result[key] = value
    return result


def at(tree: Any, *path: str | int) -> Any:
    """The value at a path of keys and positions, or None where there is none."""
    for step in path:
        if isinstance(step, str) and isinstance(tree, Mapping):
            tree = tree.get(step)
        elif isinstance(step, int) and isinstance(tree, list | tuple) and -len(tree) <= step < len(tree):
            tree = tree[step]
        else:
            return None
    return None if tree is UNKNOWN else tree

"""The run-time check of tensors' shapes: jaxtyping with beartype, in functions and dataclasses that annotate shapes.

Other functions are left as they are: pyright checks their types, and checking each call would take a third of the
suite's time.
"""

import re
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

SHAPED = re.compile(r"\b(Bool|Float(32|64)?|Int(32|64)?|Shaped|UInt8)\[")
JAXTYPED = jaxtyping.jaxtyped

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int is accepted for a float, as in PEP 484."""


def where_shapes_are_annotated(*, typechecker: Callable[..., Any]) -> Callable[..., Any]:
    """`jaxtyping.jaxtyped`, for what annotates a shape; anything else is returned unchanged."""
    checked = JAXTYPED(typechecker=typechecker)
    return lambda defined: checked(defined) if SHAPED.search(repr(getattr(defined, "__annotations__", {}))) else defined


def install(packages: tuple[str, ...]) -> None:
    """Check the shapes in these packages, which are not imported yet."""
    jaxtyping.jaxtyped = where_shapes_are_annotated
    jaxtyping.install_import_hook(packages, "shape_checks.check")

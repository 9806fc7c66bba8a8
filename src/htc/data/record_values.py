"""Values of COCO records whose type is not COCO's but whose meaning is certain: ids and sizes as text or floats, flags
as text or booleans.

Readers use the values that these functions return; `htc doctor` reports the records that had another type.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, Generic, TypeGuard, TypeVar

NUMBER_TYPES = frozenset((int, float))
WHOLE_TEXT = re.compile(r"\s*(0|-?[1-9][0-9]{0,17})(\.0+)?\s*", re.ASCII)
"""A whole number without leading zeros: `0001` may be the name of something else than 1."""
NO_PARENT = (None, "", "none")
"""Values of a category's `supercategory` that name none."""
FLAGS: dict[str, bool] = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
NO_PARENT = (None, "", "none")
"""Values of a category's `supercategory` that name none."""
Id = TypeVar("Id", int, int | str)


def is_whole(value: Any) -> TypeGuard[int]:
    """Test for an integer; JSON's true and false are not integers."""
    return type(value) is int


def is_id(value: Any) -> TypeGuard[int | str]:
    """Test for an integer or a string; JSON's true and false are neither."""
    return type(value) in (int, str)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Test for a finite number that is not a boolean."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def are_numbers(values: list[Any]) -> bool:
    """`is_number` for all values, several times as fast for the long lists of polygons."""
    try:
        if set(map(type, values)) <= NUMBER_TYPES and math.isfinite(sum(values)):
            return True
    except OverflowError:
        pass
    return all(map(is_number, values))


def whole(value: Any) -> int | None:
    """The integer that a value certainly is: 2, 2.0, "2" and "2.0"; None for others."""
    if type(value) is int:
        return value
    if type(value) is float:
        return int(value) if value.is_integer() else None
    matched = WHOLE_TEXT.fullmatch(value) if type(value) is str else None
    return None if matched is None else int(matched[1])


def own_id(value: Any) -> int | str | None:
    """The id that a record gives itself: an integer, a text, or a float without fraction; None for others."""
    return value if is_id(value) else whole(value)


def flag(value: Any) -> bool | None:
    """The truth of `iscrowd` and `ignore`: 0 and 1 as number, boolean or text; None for others."""
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


class KnownIds(Generic[Id]):
    """Ids, found by a value of the same type or, if only one has it, of the same number: 2, 2.0 and "2"."""

    def __init__(self, ids: Iterable[Id]) -> None:
        self._ids = dict.fromkeys(ids)
        self._by_number: dict[int, Id | None] | None = None

    def find(self, value: Any) -> Id | None:
        """The id that the value means; None if there is none, or several."""
        if type(value) in (int, str) and value in self._ids:
            return value
        number = whole(value)
        if number is None:
            return None
        if self._by_number is None:
            self._by_number = {}
            for id in self._ids:
                own = whole(id)
                if own is not None:
                    self._by_number[own] = None if own in self._by_number else id
        return self._by_number.get(number)


def short(value: Any, most: int = 60) -> str:
    """Shorten a value for a message."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."

"""An interpreter of pickle opcodes that reads pickles as data: it never imports a name and never calls a function that
a file names.

A pickle is a program, which Python's own unpickler executes. This one keeps every global as an inert `Symbol`. Calling
a symbol can only do what `rebuild` lists: create an ordered dict, the description of a tensor, or a `Foreign`
placeholder for objects of mmdetection's packages. Everything else is refused by name. The standard library's
`pickletools` parses the opcodes.
"""

import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

from htc.checkpoint.safe_pickle.values import (
    DamagedPickleError,
    Foreign,
    StorageReference,
    TensorReference,
    UnsafePickleError,
    describe_value,
    dict_key,
    rebuild,
    storage_reference,
    symbol,
)
from htc.errors import CheckpointError

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_LITERALS = (*_NUMBERS, *_TEXTS, *_BYTES)
_IGNORED = frozenset(("PROTO", "FRAME"))
# Exceptions that a damaged pickle can cause, in our stack and memo and in pickletools.
_FAULTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    struct.error,
    AssertionError,
    RecursionError,
    MemoryError,
)


class ByteSource(Protocol):
    """The methods of a file that `pickletools` needs."""

    def read(self, count: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


class Bounded:
    """A file whose reads are limited to the remaining bytes: a pickle may declare strings of any length, and reading
    allocates memory first.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        """Read at most `count` bytes."""
        return self.file.read(min(count, self.size - self.file.tell()))

    def readline(self) -> bytes:
        """Read up to the end of the line."""
        return self.file.readline()

    def tell(self) -> int:
        """Return the position in the file."""
        return self.file.tell()


class PickleMachine:
    """Interprets one pickle. `items` is its stack, `memo` the table of memoized values, `storages` the buffers that it
    references.
    """

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageReference] = {}
        self.actions: dict[str, Callable[[Any], object]] = {
            **dict.fromkeys(_LITERALS, self.items.append),
            **{
                name: self._memory(name)
                for name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET")
            },
            "MARK": lambda _: self.items.append(_MARK),
            "POP": lambda _: self.items.pop(),
            "POP_MARK": lambda _: self._since_mark(),
            "DUP": lambda _: self.items.append(self.items[-1]),
            "EMPTY_LIST": lambda _: self.items.append([]),
            "EMPTY_DICT": lambda _: self.items.append({}),
            "EMPTY_TUPLE": lambda _: self.items.append(()),
            "EMPTY_SET": lambda _: self.items.append([]),
            "LIST": lambda _: self.items.append(self._since_mark()),
            "TUPLE": lambda _: self.items.append(tuple(self._since_mark())),
            "FROZENSET": lambda _: self.items.append(tuple(self._since_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "DICT": lambda _: self._new_dict(self._since_mark()),
            "APPEND": lambda _: self._extend([self.items.pop()]),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "ADDITEMS": lambda _: self._extend(self._since_mark()),
            "SETITEM": lambda _: self._set_items([*reversed([self.items.pop(), self.items.pop()])]),
            "SETITEMS": lambda _: self._set_items(self._since_mark()),
            "GLOBAL": lambda argument: self.items.append(symbol(*argument.split(" ", 1))),
            "STACK_GLOBAL": self._stack_global,
            "INST": self._instance,
            "OBJ": self._object,
            "REDUCE": self._reduce,
            "NEWOBJ": self._reduce,
            "NEWOBJ_EX": self._new_object_ex,
            "BUILD": self._build,
            "BINPERSID": self._persistent,
        }

    def run(self, source: ByteSource | bytes) -> Any:
        """Return the value of the pickle at the position of the source; a file is then positioned after the pickle.

        Raises `UnsafePickleError` for a name or a call that no checkpoint needs, `DamagedPickleError` for anything that
        is not a pickle.
        """
        try:
            for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", source)):
                if opcode.name == "STOP":
                    return self.items.pop()
                if opcode.name in _IGNORED:
                    continue
                if opcode.name in _CONSTANTS:
                    self.items.append(_CONSTANTS[opcode.name])
                    continue
                action = self.actions.get(opcode.name)
                if action is None:
                    raise UnsafePickleError(f"its pickle has the opcode {opcode.name}, which no checkpoint needs")
                action(argument)
        except CheckpointError:
            raise
        except _FAULTS as error:
            raise DamagedPickleError(f"its pickle is invalid ({error})") from error
        raise DamagedPickleError("its pickle has no end")

    def _memory(self, name: str) -> Callable[[Any], object]:
        if name == "MEMOIZE":
            return lambda _: self.memo.__setitem__(len(self.memo), self.items[-1])
        if name.endswith("PUT"):
            return lambda slot: self.memo.__setitem__(int(slot), self.items[-1])
        return lambda slot: self.items.append(self.memo[int(slot)])

    def _since_mark(self) -> list[Any]:
        start = len(self.items) - 1
        while self.items[start] is not _MARK:
            start -= 1
            if start < 0:
                raise IndexError("no mark on the stack")
        items = self.items[start + 1 :]
        del self.items[start:]
        return items

    def _tuple(self, count: int) -> None:
        if len(self.items) < count:
            raise IndexError("stack underflow")
        parts = tuple(self.items[-count:])
        del self.items[-count:]
        self.items.append(parts)

    def _new_dict(self, flat: list[Any]) -> None:
        self.items.append({})
        self._set_items(flat)

    def _extend(self, values: list[Any]) -> None:
        target = self.items[-1]
        if isinstance(target, Foreign):
            target.elements.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise UnsafePickleError(f"items are appended to a {type(target).__name__}")

    def _set_items(self, flat: list[Any]) -> None:
        target = self.items[-1].entries if isinstance(self.items[-1], Foreign) else self.items[-1]
        if not isinstance(target, dict):
            raise UnsafePickleError(f"items are set on a {type(target).__name__}")
        if len(flat) % 2:
            raise ValueError("a key without a value")
        target.update((dict_key(key), value) for key, value in zip(flat[::2], flat[1::2], strict=True))

    def _stack_global(self, _: Any) -> None:
        name, module = self.items.pop(), self.items.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise UnsafePickleError("the name of a global is not a string")
        self.items.append(symbol(module, name))

    def _instance(self, argument: str) -> None:
        self.items.append(rebuild(symbol(*argument.split(" ", 1)), tuple(self._since_mark())))

    def _object(self, _: Any) -> None:
        target, *arguments = self._since_mark()
        self.items.append(rebuild(target, tuple(arguments)))

    def _reduce(self, _: Any) -> None:
        arguments, target = self.items.pop(), self.items.pop()
        self.items.append(rebuild(target, arguments))

    def _new_object_ex(self, _: Any) -> None:
        keywords, arguments, target = self.items.pop(), self.items.pop(), self.items.pop()
        if not isinstance(keywords, dict):
            raise TypeError("keywords are not a dictionary")
        self.items.append(rebuild(target, (arguments, keywords)))

    def _build(self, _: Any) -> None:
        state, target = self.items.pop(), self.items[-1]
        if isinstance(target, Foreign):
            target.state = state
        elif not isinstance(target, OrderedDict | TensorReference):
            # An ordered dict's state is the `_metadata` of torch's state dicts, which is not needed. No other object
            # may get a state.
            raise UnsafePickleError(f"a state is set on {describe_value(target)}")

    def _persistent(self, _: Any) -> None:
        reference = storage_reference(self.items.pop())
        if self.storages.setdefault(reference.key, reference) != reference:
            raise DamagedPickleError(f"storage {reference.key} has two different descriptions")
        self.items.append(reference)

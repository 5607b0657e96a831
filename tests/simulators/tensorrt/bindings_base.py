"""What the simulated classes share with classes bound by pybind11: enums, refusal of unknown attributes, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

Version = tuple[int, int]

_Member = TypeVar("_Member", bound=Callable[..., Any])


def versions(since: Version = (0, 0), until: Version = (99, 0)) -> Callable[[_Member], _Member]:
    """Marks a method or property that not every version has: from `since` on, and before `until`."""

    def mark(member: _Member) -> _Member:
        target = member.fget if isinstance(member, property) else member
        target.__api_versions__ = (since, until)
        return member

    return mark


class Missing:
    """Stands on a class for a name that this version does not have."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._message = f"{owner.__name__!r} object has no attribute {name!r}"

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError(self._message)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(self._message)


class Bound:
    """Base of all simulated classes.

    An unknown attribute cannot be set, as in pybind11. `library` is what all objects of one simulated module share.
    """

    library: ClassVar[Any] = None
    __api_members__: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        own = type(self).__module__ == "tensorrt"
        if own and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


def _as_it_is(value: Any) -> Any:
    return value


def stored(slot: str, kind: Callable[[Any], Any] = _as_it_is) -> property:
    """Returns a property that keeps what it is set to in the attribute `slot`, as a `kind`."""

    def read(self: Bound) -> Any:
        return getattr(self, slot)

    def write(self: Bound, value: Any) -> None:
        setattr(self, slot, kind(value))

    return property(read, write)


class Flagged(Bound):
    """A class with options that are bits of one number. Deriving classes set `_flags` when they are made."""

    _flags: int
    flags = stored("_flags", int)

    def _check_flag(self, flag: object) -> None:
        """Raises TypeError where the bindings do not take this flag."""

    def set_flag(self, flag: Any) -> None:
        self._check_flag(flag)
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._check_flag(flag)
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        self._check_flag(flag)
        return bool(self._flags >> int(flag) & 1)


class Overridable(Bound):
    """A class that programs derive from. pybind11 demands that its __init__ is called."""

    def __init__(self) -> None:
        self._initialized = True


def checked_overridable(value: object, cls: type[Overridable], what: str) -> None:
    """Raises TypeError, as pybind11 does, unless `value` is an initialized instance of a class."""
    if not isinstance(value, cls):
        raise TypeError(f"{what}: incompatible function arguments; expected {cls.__name__}, got {type(value).__name__}")
    if not getattr(value, "_initialized", False):
        raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")


def for_version(cls: type[Bound], version: Version, library: object) -> type[Bound]:
    """Returns a class as a version has it: without the members that came later or are gone."""
    hidden: dict[str, Any] = {"library": library, "__module__": "tensorrt", "__doc__": cls.__doc__}
    for name in dir(cls):
        member = _static(cls, name)
        function = member.fget if isinstance(member, property) else member
        since, until = getattr(function, "__api_versions__", ((0, 0), (99, 0)))
        if not since <= version < until:
            hidden[name] = Missing()
    return type(cls.__name__, (cls,), hidden)


def _static(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


class Enumeration:
    """A member of an enum as pybind11 makes them: no arithmetic, `int()` gives the number."""

    __members__: ClassVar[dict[str, Any]] = {}

    def __init__(self, value: int) -> None:
        self._value = int(value)

    @property
    def name(self) -> str:
        return next((name for name, member in type(self).__members__.items() if member == self), "???")

    @property
    def value(self) -> int:
        return self._value

    def __int__(self) -> int:
        return self._value

    __index__ = __int__

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and int(other) == self._value

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __repr__(self) -> str:
        return f"<{self}: {self._value}>"


def make_enum(name: str, numbers: dict[str, int]) -> type[Enumeration]:
    """Returns an enum class with these members."""
    cls = type(name, (Enumeration,), {"__module__": "tensorrt"})
    cls.__members__ = {member: cls(number) for member, number in numbers.items()}
    for member, value in cls.__members__.items():
        setattr(cls, member, value)
    return cls


class Dims:
    """A shape. Equal to lists and tuples of the same numbers."""

    MAX_DIMS: ClassVar[int] = 8
    __hash__ = None

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._shape = [int(size) for size in shape]

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self._shape[index]) if isinstance(index, slice) else self._shape[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dims | list | tuple) and list(self._shape) == list(other)

    def __str__(self) -> str:
        return f"({', '.join(map(str, self._shape))}{',' if len(self) == 1 else ''})"

    __repr__ = __str__


def as_shape(value: object, what: str) -> tuple[int, ...]:
    """Returns what pybind11 takes for a Dims, or raises its TypeError."""
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise TypeError(f"{what}: incompatible function arguments; expected a shape, got {value!r}")
    return tuple(int(size) for size in value)


def as_buffer(value: object, what: str) -> bytes:
    """Returns what pybind11 takes for a buffer, or raises its TypeError."""
    try:
        return memoryview(value).tobytes()
    except TypeError:
        raise TypeError(f"{what}: incompatible function arguments; expected a buffer, got {type(value)}") from None


class IHostMemory(bytearray):
    """A serialized engine or cache. Offers the buffer protocol, which a class in Python has only by deriving from one
    that has it, and nothing else that a bytearray can do.
    """

    dtype: Any = None

    @property
    def nbytes(self) -> int:
        return bytearray.__len__(self)

    def _refuse(self, *_arguments: object) -> Any:
        raise TypeError("IHostMemory offers nbytes and the buffer protocol; use memoryview() or bytes()")

    __len__ = __getitem__ = __iter__ = __add__ = __contains__ = __eq__ = __setitem__ = _refuse
    __hash__ = None
    __reversed__ = _refuse


for _name in dir(bytearray):
    if not _name.startswith("_"):
        setattr(IHostMemory, _name, _missing := Missing())
        _missing.__set_name__(IHostMemory, _name)

"""What stands for the values of a pickle while it is read: what is known of each, and nothing built.

Numbers, text, booleans and None stand for themselves; bytes are views into the file. Everything else is one of the
classes below. Whatever is put into something else is complete by then and does not change afterwards, so each knows
how deeply it is nested. Only objects can hold themselves, by way of their attributes, as scikit-learn's own do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

DEEPEST = 200


class Unusual(Exception):  # noqa: N818 - it names a fact about the file, not a fault of ours
    """No honest file does this; said in a sentence. `name` is what it is done with."""

    def __init__(self, name: str, said: str) -> None:
        """`said` is for the person whose file is refused."""
        super().__init__(said)
        self.name = name
        self.said = said


class TooDeep(Exception):  # noqa: N818 - as above
    """Values are nested in values beyond what any model needs."""


class Held:
    """A value that can hold others, or be held."""

    __slots__ = ("height", "placed")

    def __init__(self) -> None:
        """A fresh one holds nothing and is held by nothing."""
        self.height = 0
        # How many times.
        self.placed = 0

    # Whether what it holds may hold it in turn.
    refers_back = False

    @property
    def complete(self) -> bool:
        """Whether it has all that it needs to be used."""
        return True

    def put(self, values: Iterable[object]) -> None:
        """Note what it holds now."""
        if self.placed and not self.refers_back:
            raise Unusual(self.label, "It is changed after it was put into something else.")
        height = self.height
        for value in values:
            if isinstance(value, Held):
                if value is self and not self.refers_back:
                    raise Unusual(self.label, "It holds itself.")
                if not value.complete:
                    raise Unusual(value.label, "It is used before it has its state.")
                value.placed += 1
                if value.height >= height:
                    height = value.height + 1
        self.height = height
        if height > DEEPEST:
            raise TooDeep

    def fill(self, values: list[object]) -> None:
        """Put values into it."""
        self.put(values)

    @property
    def label(self) -> str:
        """What it is called in a finding."""
        return type(self).__name__.lower()


class Opaque(Held):
    """What came of something that is refused already: nothing more is said about it."""

    __slots__ = ()

    def put(self, values: Iterable[object]) -> None:
        """Take anything."""


class Name(Held):
    """A class or function that the file mentions, under its present name."""

    __slots__ = ("full",)

    def __init__(self, full: str) -> None:
        """`full` is module and name, with a dot."""
        super().__init__()
        self.full = full

    @property
    def label(self) -> str:
        """Its name."""
        return self.full


class Tuple(Held):
    """A tuple."""

    __slots__ = ("items",)

    def __init__(self, items: list[object]) -> None:
        """A tuple is complete from the start."""
        super().__init__()
        self.items = items
        if items:
            self.put(items)


class List(Held):
    """A list."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        """Lists start empty."""
        super().__init__()
        self.items: list[object] = []

    def fill(self, values: list[object]) -> None:
        """Put values at its end."""
        self.put(values)
        self.items += values


class Set(Held):
    """A set or frozenset."""

    __slots__ = ()


class Dict(Held):
    """A dict: its values by the keys that are text, and whether there are others."""

    __slots__ = ("named", "others")

    def __init__(self) -> None:
        """Dicts start empty."""
        super().__init__()
        self.named: dict[str, object] = {}
        self.others = False

    def fill(self, values: list[object]) -> None:
        """Set keys to values, which alternate."""
        self.put(values)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(key, str):
                self.named[key] = value
            else:
                self.others = True


class Made(Held):
    """What a class or function gives; `waits` as long as it lacks the state that it needs."""

    __slots__ = ("built", "of", "waits")
    refers_back = True

    def __init__(self, of: str, *, waits: bool = False) -> None:
        """`of` names the class."""
        super().__init__()
        self.of = of
        self.waits = waits
        self.built = False

    @property
    def complete(self) -> bool:
        """Whether it has its state, or needs none."""
        return not self.waits

    @property
    def label(self) -> str:
        """The name of its class."""
        return self.of

    def build(self) -> None:
        """Note that it has its state now: once only. What it holds may refer back to it."""
        if self.built:
            raise Unusual(self.of, "It is given a state a second time.")
        self.built = True
        self.waits = False


class Dtype(Made):
    """The type of an array's items: its letter, how many bytes one takes, and the fields of a structure."""

    __slots__ = ("fields", "kind", "size")

    def __init__(self, kind: str, size: int) -> None:
        """NumPy writes a state after every dtype."""
        super().__init__("numpy.dtype", waits=True)
        self.kind = kind
        self.size = size
        self.fields: tuple[tuple[str, str, int], ...] = ()


class Array(Made):
    """An array: its dtype and shape, known once it is complete."""

    __slots__ = ("dtype", "shape")

    def __init__(self, of: str = "numpy.ndarray") -> None:
        """`of` is its class."""
        super().__init__(of, waits=True)
        self.dtype: Dtype | None = None
        self.shape: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many items it has."""
        return math.prod(self.shape)

    @property
    def claimed_bytes(self) -> int:
        """How much memory its items take."""
        return self.count * self.dtype.size if self.dtype else 0

    def shaped(self, dtype: Dtype, shape: tuple[int, ...]) -> None:
        """Note what it is; this completes it."""
        self.build()
        self.dtype = dtype
        self.shape = shape
        self.put([dtype])

    def is_of(self, code: str, dimensions: int) -> bool:
        """Whether it has this type (`f8`) and that many dimensions."""
        dtype = self.dtype
        return dtype is not None and f"{dtype.kind}{dtype.size}" == code and len(self.shape) == dimensions


def is_whole(value: object) -> bool:
    """Whether it is a whole number, and not a truth value that passes for one."""
    return type(value) is int

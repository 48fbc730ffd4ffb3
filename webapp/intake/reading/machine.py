"""Walks a pickle opcode by opcode, and builds, imports and calls nothing: a stack machine over what stands for values.

It must see exactly what the unpickler would see, or a file could show it something else: so frames, the memo and
joblib's arrays, whose bytes lie in the middle of the stream, are followed to the byte, and everything in which
readers could differ is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from webapp.intake.reading import calls, states
from webapp.intake.reading.findings import Findings
from webapp.intake.reading.stream import DAMAGED, INVALID, MIB, TOO_LARGE, TOO_OLD, Broken, Stream
from webapp.intake.reading.values import (
    Array,
    Dict,
    Held,
    List,
    Made,
    Name,
    Opaque,
    Set,
    TooDeep,
    Tuple,
    Unusual,
)

MOST_OPCODES = 20_000_000
MOST_OBJECTS = 5_000_000
# An array of objects takes eight bytes for each and the file at least one.
MOST_CLAIMED_PER_BYTE = 8

# Unpicklers up to this protocol look for the present names of what Python 2 called so.
RENAMING_PROTOCOL = 2
PYTHON_2_NAMES = {"long": "int", "xrange": "range"}
OLD_WRAPPERS = {"NDArrayWrapper", "ZNDArrayWrapper"}
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
ATTRIBUTE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
STOP = ord(".")
# The others mark, keep and change what is there.
MAKING = frozenset(range(256)) - frozenset(b"(.abepqrsu\x80\x90\x94\x95")
MOST_MARKS = 1000
BUNCH = "sklearn.utils._bunch.Bunch"
OLD = "Written in a pickle protocol from before 2003. Dump the model again with protocol 2 or newer."


@dataclass(slots=True)
class Tally:
    """What was seen in a file so far, its inner pickles included."""

    allowed: frozenset[str]
    findings: Findings = field(default_factory=Findings)
    names: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    opcodes: int = 0
    objects: int = 0
    claimed_bytes: int = 0


Readers = Sequence[Callable[["Machine"], None]]


class Machine(Stream):
    """One pickle in a file: the file's own, or that of an array of objects in it."""

    def __init__(self, content: memoryview, start: int, tally: Tally, readers: Readers, *, inner: bool = False) -> None:
        """`readers` holds what to do for each of the 256 opcodes."""
        super().__init__(content, start)
        self.tally = tally
        self.readers = readers
        self.inner = inner
        # Where the opcode in hand begins.
        self.offset = start
        self.protocol = 0
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Give what stands for the value of the pickle; afterwards `position` is where it ends."""
        try:
            self._walk()
            return self._stopped()
        except TooDeep:
            raise Broken(TOO_LARGE, "Values are nested too deeply.") from None
        except IndexError:
            raise Broken(DAMAGED, "The stream takes a value where it has left none.") from None

    def _walk(self) -> None:
        content, readers, tally = self.content, self.readers, self.tally
        while True:
            self.offset = start = self.position
            if start >= self.end:
                self.leave_frame()
            opcode = content[start]
            self.position = start + 1
            if opcode == STOP:
                return
            tally.opcodes += 1
            if tally.opcodes > MOST_OPCODES or tally.objects > MOST_OBJECTS:
                raise Broken(TOO_LARGE, f"The file builds more than {MOST_OBJECTS:,} values.")
            if opcode in MAKING:
                tally.objects += 1
            try:
                readers[opcode](self)
            except Unusual as unusual:
                # Raised only where a value would have been pushed.
                self.note(INVALID, unusual.name, unusual.said)
                self.push(Opaque())

    def note(self, code: str, name: str, said: str) -> None:
        """Note a finding at the opcode in hand; the walk goes on."""
        self.tally.findings.note(code, name, said, self.offset)

    def _stopped(self) -> object:
        if self.framed and self.position != self.end:
            raise Broken(DAMAGED, "The pickle ends in the middle of a frame.")
        if len(self.stack) != 1 or self.marked:
            raise Broken(INVALID, "The pickle ends with more or less than one value.")
        if not self.protocol:
            self.note(TOO_OLD, "PROTO", OLD)
        value = self.stack.pop()
        self._put(List(), [value])
        return value

    # --- The stack and the memo ---------------------------------------------------------------------------

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> object:
        """Take the last value from the stack."""
        return self.stack.pop()

    def mark(self) -> None:
        """Begin a group of values."""
        if len(self.marked) >= MOST_MARKS:
            raise Broken(TOO_LARGE, "Values are nested too deeply.")
        self.marked.append(self.stack)
        self.stack = []

    def group(self) -> list[object]:
        """Take the values of the group."""
        values = self.stack
        self.stack = self.marked.pop()
        return values

    def remember(self, index: int) -> None:
        """Keep the last value under a number; honest files count."""
        if index != len(self.memo) or index > self.tally.objects:
            self.note(INVALID, "memo", "Values are not kept in the order in which they come.")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Put a kept value on the stack."""
        if index not in self.memo:
            raise Broken(DAMAGED, "The stream refers to a value that it has not kept.")
        value = self.memo[index]
        # What it stands for by now is the array itself, which joblib does not keep.
        if isinstance(value, Made) and value.of == calls.WRAPPER:
            raise Unusual(value.of, "It is used a second time.")
        self.push(value)

    def _put(self, target: Held, values: list[object]) -> None:
        try:
            target.fill(values)
        except Unusual as unusual:
            self.note(INVALID, unusual.name, unusual.said)

    # --- Containers ---------------------------------------------------------------------------------------

    def tuple_of(self, values: list[object]) -> None:
        """Make a tuple."""
        self.push(Tuple(values))

    def last(self, count: int) -> list[object]:
        """Take so many values from the stack."""
        if len(self.stack) < count:
            raise IndexError
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def extend(self, values: list[object]) -> None:
        """Put values into the list on the stack."""
        target = self.stack[-1]
        if isinstance(target, List):
            self._put(target, values)
        elif not isinstance(target, Opaque):
            self.note(INVALID, label(target), "Values are appended to what is no list.")

    def update(self, pairs: list[object]) -> None:
        """Put pairs into the dict on the stack."""
        target = self.stack[-1]
        if len(pairs) % 2:
            raise Broken(DAMAGED, "A key in the stream has no value.")
        if isinstance(target, Dict):
            self._put(target, pairs)
        elif isinstance(target, Made) and target.of == BUNCH and not target.built:
            keys = Dict()
            self._put(keys, pairs)
            self._put(target, [keys])
        elif not isinstance(target, Opaque):
            self.note(INVALID, label(target), "Keys are set in what is no dict.")

    def add(self, values: list[object]) -> None:
        """Put values into the set on the stack."""
        target = self.stack[-1]
        if isinstance(target, Set):
            self._put(target, values)
        elif not isinstance(target, Opaque):
            self.note(INVALID, label(target), "Values are added to what is no set.")

    def frozen(self, values: list[object]) -> None:
        """Make a frozenset."""
        made = Set()
        self._put(made, values)
        self.push(made)

    # --- Names, calls and states --------------------------------------------------------------------------

    def name(self, module: str, attribute: str) -> object:
        """Give what stands for a class or function; note it if it may not stand in a model file."""
        full = f"{module}.{attribute}"
        self.tally.names.add(full)
        if attribute in OLD_WRAPPERS:
            self.note(
                TOO_OLD, full, "An array as joblib wrote it before 2016. Dump the model again with a present one."
            )
            return Opaque()
        # A dot in the attribute would reach into a class or an imported module.
        well_formed = MODULE.fullmatch(module) and ATTRIBUTE.fullmatch(attribute)
        if full not in self.tally.allowed or not well_formed:
            self.tally.findings.unknown(full, self.offset)
            return Opaque()
        return Name(self._present(module, attribute))

    def _present(self, module: str, attribute: str) -> str:
        if module == "__builtin__":
            if self.protocol > RENAMING_PROTOCOL:
                raise Unusual(f"{module}.{attribute}", "It is named as in Python 2, in a pickle of Python 3.")
            return f"builtins.{PYTHON_2_NAMES.get(attribute, attribute)}"
        if module.startswith("numpy.core."):
            module = f"numpy._core.{module.removeprefix('numpy.core.')}"
        return f"{module}.{attribute}"

    def call(self) -> None:
        """Call what is on the stack with the tuple above it."""
        args, function = self.pop(), self.pop()
        self.push(self._applied(calls.call, function, args))

    def make(self) -> None:
        """Make an object of the class on the stack, which is not called."""
        args, cls = self.pop(), self.pop()
        self.push(self._applied(calls.make, cls, args))

    def _applied(self, act: Callable[[str, list[object]], object], of: object, args: object) -> object:
        if isinstance(of, Opaque) or isinstance(args, Opaque):
            return Opaque()
        if not isinstance(of, Name):
            raise Unusual(label(of), "It is called, and is no class or function of the server's table.")
        if not isinstance(args, Tuple) or args.placed:
            raise Unusual(of.full, "It is called with no tuple of arguments of its own.")
        args.placed += 1
        for arg in args.items:
            # A set is made of a list once more.
            self.tally.objects += len(arg.items) if isinstance(arg, List) else 0
        made = act(of.full, args.items)
        if isinstance(made, Array) and made.complete:
            self._claim(made)
        return made

    def build(self) -> None:
        """Give the object on the stack its state, and follow joblib's array if it is one."""
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, Made) and target.of == calls.WRAPPER:
            self.pop()
            self.push(self._inlined(target, state))
            return
        try:
            states.build(target, state)
        except Unusual as unusual:
            self.note(INVALID, unusual.name, unusual.said)
            self.stack[-1] = Opaque()
            return
        if isinstance(target, Array):
            self._claim(target)
        elif isinstance(state, Dict) and isinstance(version := state.named.get("_sklearn_version"), str):
            self.tally.versions.add(version)

    def _claim(self, array: Array) -> None:
        self.tally.claimed_bytes += array.claimed_bytes
        if self.tally.claimed_bytes > MOST_CLAIMED_PER_BYTE * len(self.content) + MIB:
            raise Broken(TOO_LARGE, "The arrays in the file claim far more memory than it has bytes.")

    # --- joblib's arrays ----------------------------------------------------------------------------------

    def _inlined(self, wrapper: Made, state: object) -> object:
        if self.inner:
            raise Broken(INVALID, "An array of joblib's lies within another.")
        try:
            array, dtype, alignment = states.wrapped(wrapper, state)
        except Unusual as unusual:
            # What is behind it cannot be told from opcodes.
            self.note(INVALID, unusual.name, unusual.said)
            raise Broken(INVALID, "An array cannot be followed, nor what comes after it.") from None
        if self.framed and self.position != self.end:
            raise Broken(DAMAGED, "The bytes of an array begin in the middle of a frame.")
        self.unframe()
        if dtype.kind == "O":
            return self._array_of_objects(array)
        if alignment:
            self._pad(alignment)
        size = array.claimed_bytes
        start = self.take(size)
        self._claim(array)
        calls.check_bytes(dtype, self.content[start : start + size], array.of)
        return array

    def _pad(self, alignment: int) -> None:
        padding = self.content[self.take(1)]
        if not 1 <= padding <= alignment:
            raise Broken(DAMAGED, "The padding before an array is none that joblib writes.")
        self.take(padding)

    def _array_of_objects(self, announced: Array) -> object:
        machine = Machine(self.content, self.position, self.tally, self.readers, inner=True)
        try:
            value = machine.run()
        finally:
            self.position, self.offset = machine.position, machine.offset
        # The announced one is what a look at the file's outside tells; the inner one is what is loaded.
        same = isinstance(value, Array) and value.shape == announced.shape and value.dtype and value.dtype.kind == "O"
        if not same and not isinstance(value, Opaque):
            raise Unusual(announced.of, "An array of objects holds something else than it announces.")
        return value


def label(value: object) -> str:
    """Give what a value is called in a finding."""
    return value.label if isinstance(value, Held) else type(value).__name__

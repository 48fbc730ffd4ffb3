"""What each opcode of a pickle does: one short reader for each, in a table of 256."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable

from webapp.intake.reading.machine import OLD, Machine, label
from webapp.intake.reading.stream import DAMAGED, FLOAT, INT4, INVALID, TOO_OLD, UINT1, UINT2, UINT4, UINT8, Broken
from webapp.intake.reading.values import Dict, List, Opaque, Set, Tuple, Unusual

OLDEST_PROTOCOL, NEWEST_PROTOCOL = 2, 5
OUTSIDE = "It refers to an object outside the file."

Reader = Callable[[Machine], None]


def _pushes(make: Callable[[Machine], object]) -> Reader:
    """Make the reader of an opcode that puts one value on the stack."""

    def reader(machine: Machine) -> None:
        # First: a group gives the stack back that was before it.
        value = make(machine)
        machine.stack.append(value)

    return reader


# --- What honest files hold -------------------------------------------------------------------------------


def _protocol(machine: Machine) -> None:
    version = machine.number(UINT1)
    if machine.offset != machine.start:
        raise Broken(DAMAGED, "The protocol changes in the middle of the pickle.")
    if not OLDEST_PROTOCOL <= version <= NEWEST_PROTOCOL:
        raise Broken(DAMAGED, f"Models are not written in pickle protocol {version}.")
    machine.protocol = version


def _float(machine: Machine) -> float:
    return float(FLOAT.unpack_from(machine.content, machine.take(FLOAT.size))[0])


def _integer(machine: Machine) -> int:
    return int.from_bytes(machine.view(UINT1), "little", signed=True)


def _global(machine: Machine) -> object:
    module = machine.line()
    return machine.name(module, machine.line())


def _stack_global(machine: Machine) -> object:
    attribute, module = machine.pop(), machine.pop()
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise Unusual("STACK_GLOBAL", "A class or function is named by something else than text.")
    return machine.name(module, attribute)


HONEST: dict[bytes, Reader] = {
    b"\x80": _protocol,
    b"\x95": Machine.enter_frame,
    b"(": Machine.mark,
    b"N": _pushes(lambda _machine: None),
    b"\x88": _pushes(lambda _machine: True),
    b"\x89": _pushes(lambda _machine: False),
    b"J": _pushes(lambda machine: machine.number(INT4)),
    b"K": _pushes(lambda machine: machine.number(UINT1)),
    b"M": _pushes(lambda machine: machine.number(UINT2)),
    b"\x8a": _pushes(_integer),
    b"G": _pushes(_float),
    b"X": _pushes(lambda machine: machine.text(UINT4)),
    b"\x8c": _pushes(lambda machine: machine.text(UINT1)),
    b"\x8d": _pushes(lambda machine: machine.text(UINT8)),
    b"B": _pushes(lambda machine: machine.view(UINT4)),
    b"C": _pushes(lambda machine: machine.view(UINT1)),
    b"\x8e": _pushes(lambda machine: machine.view(UINT8)),
    b"\x96": _pushes(lambda machine: machine.view(UINT8)),
    b")": _pushes(lambda _machine: Tuple([])),
    b"t": _pushes(lambda machine: Tuple(machine.group())),
    b"\x85": _pushes(lambda machine: Tuple(machine.last(1))),
    b"\x86": _pushes(lambda machine: Tuple(machine.last(2))),
    b"\x87": _pushes(lambda machine: Tuple(machine.last(3))),
    b"]": _pushes(lambda _machine: List()),
    b"a": lambda machine: machine.extend(machine.last(1)),
    b"e": lambda machine: machine.extend(machine.group()),
    b"}": _pushes(lambda _machine: Dict()),
    b"s": lambda machine: machine.update(machine.last(2)),
    b"u": lambda machine: machine.update(machine.group()),
    b"\x8f": _pushes(lambda _machine: Set()),
    b"\x90": lambda machine: machine.add(machine.group()),
    b"\x91": lambda machine: machine.frozen(machine.group()),
    b"q": lambda machine: machine.remember(machine.number(UINT1)),
    b"r": lambda machine: machine.remember(machine.number(UINT4)),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"h": lambda machine: machine.recall(machine.number(UINT1)),
    b"j": lambda machine: machine.recall(machine.number(UINT4)),
    b"c": _pushes(_global),
    b"\x93": _pushes(_stack_global),
    b"R": Machine.call,
    b"\x81": Machine.make,
    b"b": Machine.build,
}


# --- What only other files hold; followed for the names behind it -----------------------------------------


def _instance(machine: Machine) -> None:
    module = machine.line()
    found = machine.name(module, machine.line())
    machine.group()
    raise Unusual(label(found), "It is called by the opcode INST, which only Python 2 wrote.")


def _object(machine: Machine) -> None:
    found = machine.group()[0]
    raise Unusual(label(found), "It is called by the opcode OBJ, which only Python 2 wrote.")


def _made_with_keywords(machine: Machine) -> None:
    found = machine.last(3)[0]
    raise Unusual(label(found), "It is made with keywords (the opcode NEWOBJ_EX). No model needs that.")


def _drop(machine: Machine) -> None:
    machine.note(INVALID, "POP", "A value is built and thrown away.")
    if machine.stack:
        machine.pop()
    else:
        machine.group()


def _drop_group(machine: Machine) -> None:
    machine.note(INVALID, "POP_MARK", "Values are built and thrown away.")
    machine.group()


def _double(machine: Machine) -> None:
    machine.note(INVALID, "DUP", "A value is doubled on the stack.")
    machine.push(machine.stack[-1])


def _long_integer(machine: Machine) -> None:
    size = machine.number(INT4)
    if size < 0:
        raise Broken(DAMAGED, "A number has a negative length.")
    machine.take(size)
    raise Unusual("LONG4", "A whole number takes more than 255 bytes.")


def _persistent(machine: Machine) -> None:
    machine.line()
    raise Unusual("PERSID", OUTSIDE)


def _outside(name: str, form: struct.Struct | None = None, takes: int = 0) -> Reader:
    """Make the reader of an opcode that gets an object from somewhere else."""

    def reader(machine: Machine) -> None:
        if form:
            machine.number(form)
        if takes:
            machine.last(takes)
        raise Unusual(name, OUTSIDE)

    return reader


ODD: dict[bytes, Reader] = {
    b"i": _instance,
    b"o": _object,
    b"\x92": _made_with_keywords,
    b"0": _drop,
    b"1": _drop_group,
    b"2": _double,
    b"\x8b": _long_integer,
    b"P": _persistent,
    b"Q": _outside("BINPERSID", takes=1),
    b"\x82": _outside("EXT1", UINT1),
    b"\x83": _outside("EXT2", UINT2),
    b"\x84": _outside("EXT4", INT4),
    b"\x97": _outside("NEXT_BUFFER"),
    b"\x98": _outside("READONLY_BUFFER", takes=1),
}


# --- What protocols 0 and 1 wrote as text; followed for the names in it -------------------------------------


def _old(name: str, reader: Reader) -> Reader:
    """Make the reader of an opcode that says how old the file is."""

    def noting(machine: Machine) -> None:
        machine.note(TOO_OLD, name, OLD)
        reader(machine)

    return noting


def _quoted(machine: Machine) -> str:
    content, _ = codecs.escape_decode(machine.line().strip()[1:-1])
    return str(content, "utf-8", "replace")


def _number(machine: Machine) -> object:
    machine.line()
    return Opaque()


def _index(machine: Machine) -> int:
    try:
        return int(machine.line())
    except ValueError:
        raise Broken(DAMAGED, "A value is kept under what is no number.") from None


def _list(machine: Machine) -> None:
    values = machine.group()
    machine.push(List())
    machine.extend(values)


def _dict(machine: Machine) -> None:
    values = machine.group()
    machine.push(Dict())
    machine.update(values)


TEXT: dict[bytes, Reader] = {
    b"S": _old("STRING", _pushes(_quoted)),
    b"T": _old("BINSTRING", _pushes(lambda machine: machine.text(UINT4))),
    b"U": _old("SHORT_BINSTRING", _pushes(lambda machine: machine.text(UINT1))),
    b"V": _old("UNICODE", _pushes(lambda machine: machine.line())),
    b"I": _old("INT", _pushes(_number)),
    b"L": _old("LONG", _pushes(_number)),
    b"F": _old("FLOAT", _pushes(_number)),
    b"p": _old("PUT", lambda machine: machine.remember(_index(machine))),
    b"g": _old("GET", lambda machine: machine.recall(_index(machine))),
    b"l": _old("LIST", _list),
    b"d": _old("DICT", _dict),
}


def _unknown(_machine: Machine) -> None:
    raise Broken(DAMAGED, "This is no opcode of a pickle.")


_KNOWN = {**HONEST, **ODD, **TEXT}
READERS = tuple(_KNOWN.get(bytes([opcode]), _unknown) for opcode in range(256))

"""Reading a pickle without loading it: what it would import, and what of that it would call.

The opcodes and the lengths of their arguments are the standard library's (`pickletools`). What they do to stack and
memo is followed here with symbols in place of objects, so that computed names and memo tricks are seen, and so that
joblib's arrays, which stand between opcodes, are stepped over. Where loaders differ in what they accept, this reads on.
"""

from __future__ import annotations

import codecs
import pickletools
from typing import TYPE_CHECKING, Any

from images.machine import Machine
from images.symbols import DATA, LONGEST_NAME, UNKNOWN, Ends, Reading, Seekable, items_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from images.machine import Guards


def read_pickle(file: Seekable, size: int, *, start: int = 0, guarded: Guards | None = None,
                joblib: bool = False) -> Reading:  # fmt: skip
    """Follow a pickle from an offset on.

    Args:
        file: what holds it.
        size: of the file, in bytes.
        start: its offset, in bytes.
        guarded: by module, keys of a state that runs code where an object of that module gets it.
        joblib: as joblib reads it, where `pickle.load` would take an array's bytes for opcodes.
    """
    file.seek(start)
    machine = Machine(file, size, guarded or {}, joblib=joblib)
    machine.follow(_OPCODES)
    return machine.reading


def _text(content: bytes | None) -> object:
    """A text, where it is short enough to be a name."""
    if content is None:
        return UNKNOWN
    try:
        return content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return DATA


def _quoted(line: bytes) -> object:
    """The text of STRING: quoted, with escapes."""
    try:
        return codecs.escape_decode(line.strip()[1:-1])[0].decode("latin-1")
    except ValueError:
        return DATA


def _escaped(line: bytes) -> object:
    """The text of UNICODE."""
    if len(line) > LONGEST_NAME:
        return UNKNOWN
    try:
        return line.decode("raw-unicode-escape")
    except UnicodeDecodeError:
        return DATA


def _number(line: bytes) -> object:
    """The number of INT and LONG, which C reads in any base."""
    try:
        return int(line.rstrip(b"L"))
    except ValueError:
        return DATA


def _index(line: bytes) -> int:
    """The memo's number in a line."""
    try:
        return int(line)
    except ValueError as error:
        raise Ends from error


def _signed(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


def _unsigned(content: bytes) -> int:
    return int.from_bytes(content, "little")


def _two_lines(machine: Machine) -> tuple[str, str]:
    return (
        machine.line().decode("utf-8", "backslashreplace"),
        machine.line().decode("utf-8", "backslashreplace"),
    )


def _argument(opcode: pickletools.OpcodeInfo) -> Callable[[Machine], Any]:
    """How an opcode's argument is read, of what the standard library says about it."""
    if opcode.name in {"GLOBAL", "INST"}:
        return _two_lines
    count = opcode.arg.n if opcode.arg else None
    if count is None or count == pickletools.UP_TO_NEWLINE:
        return Machine.nothing if count is None else Machine.line
    if count >= 0:
        return lambda machine: machine.exactly(count)
    widths = {
        pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4,
        pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }  # fmt: skip
    width = widths[count]
    return lambda machine: machine.counted(width)


def _pushes(value: Callable[[Any], Any]) -> Callable[[Machine, Any], None]:
    return lambda machine, argument: machine.push(value(argument))


def _data(_: object) -> object:
    return DATA


def _bytes(content: bytes | None) -> object:
    return _text(content) if content is not None else UNKNOWN


_EFFECTS: dict[str, Callable[[Machine, Any], None]] = {
    "INT": _pushes(_number), "LONG": _pushes(_number), "FLOAT": _pushes(_data), "BINFLOAT": _pushes(_data),
    "BININT": _pushes(_signed), "BININT1": _pushes(_unsigned), "BININT2": _pushes(_unsigned),
    "LONG1": _pushes(_signed), "LONG4": _pushes(lambda content: DATA if content is None else _signed(content)),
    "STRING": _pushes(_quoted), "BINSTRING": _pushes(_bytes), "SHORT_BINSTRING": _pushes(_bytes),
    "BINBYTES": _pushes(_data), "SHORT_BINBYTES": _pushes(_data), "BINBYTES8": _pushes(_data),
    "BYTEARRAY8": _pushes(_data), "NEXT_BUFFER": _pushes(_data), "READONLY_BUFFER": lambda machine, _: machine.add([]),
    "NONE": _pushes(lambda _: None), "NEWTRUE": _pushes(_data), "NEWFALSE": _pushes(_data),
    "UNICODE": _pushes(_escaped), "SHORT_BINUNICODE": _pushes(_text), "BINUNICODE": _pushes(_text),
    "BINUNICODE8": _pushes(_text), "EMPTY_LIST": _pushes(_data), "EMPTY_SET": _pushes(_data),
    "EMPTY_TUPLE": _pushes(lambda _: ()), "EMPTY_DICT": _pushes(lambda _: {}),
    "APPEND": lambda machine, _: machine.add([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.add(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.pop_mark()),
    "LIST": lambda machine, _: machine.marked(_data), "FROZENSET": lambda machine, _: machine.marked(_data),
    "TUPLE": lambda machine, _: machine.marked(tuple), "DICT": lambda machine, _: machine.marked(items_of),
    "TUPLE1": lambda machine, _: machine.tuple_of(1), "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "POP": Machine.pop, "DUP": lambda machine, _: machine.push(machine.stack[-1]), "MARK": Machine.mark,
    "POP_MARK": lambda machine, _: machine.drop_mark(),
    "GET": lambda machine, line: machine.get(_index(line)), "BINGET": lambda machine, at: machine.get(_unsigned(at)),
    "LONG_BINGET": lambda machine, at: machine.get(_unsigned(at)),
    "PUT": lambda machine, line: machine.put(_index(line)), "BINPUT": lambda machine, at: machine.put(_unsigned(at)),
    "LONG_BINPUT": lambda machine, at: machine.put(_unsigned(at)), "MEMOIZE": Machine.memoize,
    "EXT1": Machine.extension, "EXT2": Machine.extension, "EXT4": Machine.extension,
    "GLOBAL": lambda machine, lines: machine.imports(*lines), "STACK_GLOBAL": Machine.stack_global,
    "REDUCE": Machine.reduce, "BUILD": Machine.build, "INST": Machine.instance, "OBJ": Machine.call_lowest,
    "NEWOBJ": Machine.new, "NEWOBJ_EX": Machine.new_with_keywords, "PROTO": Machine.begin,
    "FRAME": Machine.frame, "PERSID": Machine.persistent, "BINPERSID": Machine.persistent_of_stack,
}  # fmt: skip

_OPCODES: dict[bytes, tuple[Callable[[Machine], Any], Callable[[Machine, Any], None]]] = {
    opcode.code.encode("latin-1"): (_argument(opcode), _EFFECTS[opcode.name])
    for opcode in pickletools.opcodes if opcode.name != "STOP"
}  # fmt: skip

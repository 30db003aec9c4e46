"""The stack and the memo of a pickle, and what each kind of opcode does to them."""

from __future__ import annotations

import _compat_pickle
import re
from typing import TYPE_CHECKING, Any

from images.symbols import DATA, DTYPE, LONGEST_NAME, UNKNOWN, Ends, Made, Name, Reading, bytes_of, items_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from images.symbols import Seekable

    Guards = Mapping[str, Mapping[str, Any]]
    """By module, the keys of a state that has an object run a text; the text's own key; and what is harmless of it."""
    Opcodes = Mapping[bytes, tuple[Callable[["Machine"], Any], Callable[["Machine", Any], None]]]
    """By code, how an opcode's argument is read and what it does."""

_LONGEST_LINE = 2**26
_LAST_PROTOCOL = 5
_DEEPEST = 20
"""Arrays of objects in arrays of objects."""

_ALIGNED = 16
"""joblib pads arrays by up to this number of bytes."""

_WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_BY_TEXT = {("builtins", "getattr"), ("cloudpickle.cloudpickle", "_builtin_type")}
"""What gives something by its name."""

_BY_NUMBER = "imports by number (copyreg.add_extension)"
_COMPUTED = "calls what it computed"
FAILS_ALONE = frozenset({_BY_NUMBER, _COMPUTED})
"""What every loader fails at where nothing was imported before, as with the bytes of another kind of file."""

_CLASS_OF_OTHERS = ("copyreg", "_reconstructor")


class Machine:
    """A stack, a memo, and the opcodes' effect on them."""

    def __init__(self, file: Seekable, size: int, guarded: Guards, *, joblib: bool, depth: int = 0) -> None:
        self.reading = Reading()
        self._file, self._size, self._guarded, self._joblib, self._depth = file, size, guarded, joblib, depth
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._protocol = 0
        self._frame_end = 0

    def follow(self, opcodes: Opcodes) -> None:
        """Follow every opcode until STOP, or until no loader could go on."""
        self._opcodes = opcodes
        read = self._file.read
        try:
            while (code := read(1)) != b".":
                argument, effect = opcodes[code]
                effect(self, argument(self))
            self.stack.pop()
            self.reading.whole = True
        except (Ends, KeyError, IndexError):
            # No such opcode (the end of the file included), nothing on the stack, or nothing in the memo.
            pass
        self.reading.end = self._file.tell()

    def odd(self, what: str) -> None:
        """Note what no writer of pickles does."""
        if what not in self.reading.odd:
            self.reading.odd.append(what)

    # Arguments.

    def nothing(self) -> None:
        """Take no argument."""

    def exactly(self, count: int) -> bytes:
        """Take some bytes."""
        content = self._file.read(count)
        if len(content) != count:
            raise Ends
        return content

    def counted(self, width: int) -> bytes | None:
        """Take bytes whose number stands before them; None where they are many, which are stepped over."""
        count = int.from_bytes(self.exactly(width), "little")
        if count <= LONGEST_NAME:
            return self.exactly(count)
        self.step_over(count)
        return None

    def step_over(self, count: int) -> None:
        """Leave out bytes without reading them."""
        position = self._file.tell() + count
        if position > self._size:
            raise Ends
        self._file.seek(position)

    def line(self) -> bytes:
        """Take a line, without its end."""
        line = self._file.readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            self.odd(f"has a line of more than {_LONGEST_LINE} bytes")
            raise Ends
        return line[:-1]

    # The stack.

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """Take all that lies above the last mark."""
        values, self.stack = self.stack, self._below.pop()
        return values

    def drop_mark(self) -> None:
        """Drop all that lies above the last mark."""
        self.pop_mark()

    def mark(self, _: None) -> None:
        """Begin a new stack on top of this one."""
        self._below.append(self.stack)
        self.stack = []

    def pop(self, _: None) -> None:
        """Drop a value, or a mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def tuple_of(self, count: int) -> None:
        """Make a tuple of the last values."""
        if len(self.stack) < count:
            raise Ends
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(values)

    def marked(self, kind: Callable[[list[Any]], Any]) -> None:
        """Make one value of all above the mark."""
        values = self.pop_mark()
        self.push(kind(values))

    def add(self, values: list[Any]) -> None:
        """Append to what lies on the stack."""
        if isinstance(self.stack[-1], Name) and values:
            self.odd(f"changes {'.'.join(self.stack[-1].key)}")

    def set_items(self, values: list[Any]) -> None:
        """Set items of what lies on the stack."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(items_of(values))
        else:
            self.add(values)

    # The memo.

    def put(self, index: int) -> None:
        """Remember the last value."""
        self._memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        """Put what is remembered on the stack."""
        self.push(self._memo[index])

    def memoize(self, _: None) -> None:
        """Remember the last value under the next number."""
        self.put(len(self._memo))

    # What runs code.

    def begin(self, argument: bytes) -> None:
        """Note the protocol."""
        self._protocol = argument[0]
        if self._protocol > _LAST_PROTOCOL:
            raise Ends

    def frame(self, argument: bytes) -> None:
        """Note where the frame ends, which some loaders read ahead."""
        self._frame_end = self._file.tell() + int.from_bytes(argument, "little")

    def imports(self, module: str, name: str) -> None:
        """Import a name."""
        key = module, name
        if self._protocol < 3:  # noqa: PLR2004 - from 3 on names are Python 3's
            renamed = _compat_pickle.IMPORT_MAPPING.get(module, module), name
            key = _compat_pickle.NAME_MAPPING.get(key, renamed)
        self._note_import(key)

    def _note_import(self, key: tuple[str, str]) -> None:
        self.reading.names.setdefault(key, False)
        self.push(Name(key))

    def stack_global(self, _: None) -> None:
        """Import what two texts on the stack name."""
        name, module = self.stack.pop(), self.stack.pop()
        if isinstance(module, str) and isinstance(name, str):
            self.imports(module, name)
        elif any(one is DATA or (isinstance(one, Made) and not one.is_text) for one in (module, name)):
            raise Ends
        else:
            self.odd("computes the name of what it imports")
            self.push(UNKNOWN)

    def call(self, what: object, arguments: object) -> None:
        """Call something, and have what it gives on the stack."""
        if isinstance(what, Name):
            self.reading.names[what.key] = True
            if what.key in _BY_TEXT:
                self._named_by_text(what.key, arguments)
                return
            of = what.key
            if of == _CLASS_OF_OTHERS and isinstance(arguments, tuple) and arguments and isinstance(arguments[0], Name):
                of = arguments[0].key
            self.push(Made(of, arguments))
        elif isinstance(what, Made) or what is UNKNOWN:
            self.odd(_COMPUTED)
            self.push(UNKNOWN)
        else:
            raise Ends

    def _named_by_text(self, how: tuple[str, str], arguments: object) -> None:
        """Import what `getattr`, or cloudpickle's name for a type of Python's own, is asked for."""
        match how, arguments:
            case ("builtins", "getattr"), (Name(key=(module, owner)) | Made(of=(module, owner)), str(attribute)):
                self._note_import((module, f"{owner}.{attribute}"))
            case ("cloudpickle.cloudpickle", "_builtin_type"), (str(name),):
                self._note_import(("types", name))
            case _:
                self.odd(f"calls {'.'.join(how)} with what it computed")
                self.push(UNKNOWN)

    def reduce(self, _: None) -> None:
        """Call with a tuple of arguments."""
        arguments, what = self.stack.pop(), self.stack.pop()
        self.call(what, arguments)

    def new(self, _: None) -> None:
        """Make an object of its class."""
        self.reduce(None)
        made = self.stack[-1]
        if isinstance(made, Made) and made.of is not None:
            made.is_text = made.of[0] == "builtins"

    def new_with_keywords(self, _: None) -> None:
        """Make an object of its class, with keywords."""
        _, arguments, what = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.call(what, arguments)

    def instance(self, lines: tuple[str, str]) -> None:
        """Call a name with what lies above the mark."""
        arguments = self.pop_mark()
        self.imports(*lines)
        self.call(self.stack.pop(), tuple(arguments))

    def call_lowest(self, _: None) -> None:
        """Call what lies lowest above the mark with the rest."""
        what, *arguments = self.pop_mark() or [DATA]
        self.call(what, tuple(arguments))

    def extension(self, _: object) -> None:
        """Import by a number of which only the loading process knows the name."""
        self.odd(_BY_NUMBER)
        self.push(UNKNOWN)

    def persistent(self, _: object) -> None:
        """Have what the loader gives for an identity, as for PyTorch's storages."""
        self.push(Made(None, ()))

    def persistent_of_stack(self, _: None) -> None:
        """The same, with the identity on the stack; the oldest files of PyTorch give classes this way."""
        what = self.stack.pop()
        if isinstance(what, tuple) and len(what) > 1 and what[0] == "module" and isinstance(what[1], Name):
            self.push(what[1])
        else:
            self.persistent(None)

    def build(self, _: None) -> None:
        """Give an object its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Name):
            self.odd(f"changes {'.'.join(target.key)}")
        if not isinstance(target, Made) or target.of is None:
            return
        self._check_state(target.of, state)
        if target.of == _WRAPPER:
            self._wrapped(target, state)
        elif target.of == DTYPE:
            target.state = state

    def _check_state(self, of: tuple[str, str], state: object) -> None:
        """Refuse a state that has its object run a text, unless that text is known to be harmless."""
        guard = self._guarded.get(of[0])
        if guard is None or state is None:
            return
        if not isinstance(state, dict) or UNKNOWN in state:
            self.odd(f"gives {'.'.join(of)} a state that cannot be followed")
        elif any(key in state for key in guard["keys"]):
            text = state.get(guard["text"])
            if not (isinstance(text, str) and re.fullmatch(guard["harmless"], text)):
                self.odd(f"has {'.'.join(of)} run its {guard['text']} {text if isinstance(text, str) else ''}".strip())

    # Arrays between opcodes, as joblib writes them.

    def _wrapped(self, wrapper: Made, state: object) -> None:
        """Step over an array, which joblib reads at this point."""
        self.reading.arrays = True
        if not self._joblib:
            return
        wrapper.state = {**(wrapper.state or {}), **(state if isinstance(state, dict) else {})}
        if self._frame_end > self._file.tell():
            self.odd("has an array within a frame")
            raise Ends
        size = bytes_of(wrapper.state)
        if size is None:
            self.odd("has an array whose size cannot be followed")
            raise Ends
        if size < 0:
            self._objects()
            return
        if "numpy_array_alignment_bytes" in wrapper.state:
            padding = self.exactly(1)[0]
            if padding > _ALIGNED:
                self.odd(f"pads an array by {padding} bytes")
            self.step_over(padding)
        self.step_over(size)
        self.stack[-1] = DATA

    def _objects(self) -> None:
        """Follow the pickle that holds an array of objects."""
        if self._depth >= _DEEPEST:
            self.odd(f"has arrays in arrays more than {_DEEPEST} deep")
            raise Ends
        machine = Machine(self._file, self._size, self._guarded, joblib=True, depth=self._depth + 1)
        machine.follow(self._opcodes)
        inner = machine.reading
        for key, called in inner.names.items():
            self.reading.names[key] = called or self.reading.names.get(key, False)
        for odd in inner.odd:
            self.odd(odd)
        if not inner.whole:
            raise Ends
        self.stack[-1] = DATA

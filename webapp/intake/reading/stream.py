"""Reads the bytes of a pickle: numbers, text and lengths, never beyond the file or the frame in hand."""

from __future__ import annotations

import struct

MIB = 1024**2
# As many bytes as a file may unpack to: what claims more is no file that was cut off.
LARGEST_BYTES = 2048 * MIB
LONGEST_LINE = 10_000

INVALID = "model_structure_invalid"
DAMAGED = "model_damaged"
TRUNCATED = "model_truncated"
TOO_LARGE = "model_unpacks_too_large"
TOO_OLD = "model_format_too_old"

INT4, UINT1, UINT2, UINT4, UINT8 = (struct.Struct(form) for form in ("<i", "<B", "<H", "<I", "<Q"))
FLOAT = struct.Struct(">d")


class Broken(Exception):  # noqa: N818 - it names a fact about the file, not a fault of ours
    """The stream cannot be followed beyond this place."""

    def __init__(self, code: str, said: str) -> None:
        """`said` is for the person whose file is refused."""
        super().__init__(said)
        self.code = code
        self.said = said


class Stream:
    """A pickle's bytes in a file, and how far they are read."""

    def __init__(self, content: memoryview, start: int) -> None:
        """The pickle begins at `start`; where it ends it says itself."""
        self.content = content
        self.start = start
        self.position = start
        # What may be read at once: to the end of the frame, else of the file.
        self.end = len(content)
        self.framed = False

    def take(self, size: int) -> int:
        """Pass over bytes; give where they begin."""
        start = self.position
        if size > self.end - start:
            raise self._beyond(size)
        self.position = start + size
        return start

    def _beyond(self, size: int) -> Broken:
        rest = len(self.content) - self.position
        if size > LARGEST_BYTES:
            return Broken(TOO_LARGE, f"{size:,} bytes are announced, and {rest:,} follow.")
        if size > rest:
            return Broken(TRUNCATED, f"{size:,} bytes are announced, and {rest:,} follow: the file was cut off.")
        return Broken(DAMAGED, "A value reaches beyond the frame in which it begins.")

    def number(self, form: struct.Struct) -> int:
        """Read a number of fixed size."""
        start = self.take(form.size)
        return int(form.unpack_from(self.content, start)[0])

    def view(self, form: struct.Struct) -> memoryview:
        """Read bytes after their length; not copied."""
        size = self.number(form)
        start = self.take(size)
        return self.content[start : start + size]

    def text(self, form: struct.Struct) -> str:
        """Read text after its length."""
        return self._decoded(self.view(form).tobytes())

    def line(self) -> str:
        """Read text to the end of its line."""
        start = self.position
        # No name and no number is longer.
        head = self.content[start : min(self.end, start + LONGEST_LINE)].tobytes()
        size = head.find(b"\n")
        if size < 0 and start + len(head) == len(self.content):
            raise Broken(TRUNCATED, "The file ends in the middle of a line.")
        if size < 0:
            raise Broken(DAMAGED, "A line in the stream does not end.")
        self.position = start + size + 1
        return self._decoded(head[:size])

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise Broken(DAMAGED, "Text in the file is no UTF-8.") from None

    def enter_frame(self) -> None:
        """Begin a frame: its bytes are read as a whole, whatever is in them."""
        size = self.number(UINT8)
        if self.framed and self.position != self.end:
            raise Broken(DAMAGED, "A frame begins in the middle of another.")
        self.unframe()
        self.take(size)
        self.position -= size
        self.end = self.position + size
        self.framed = True

    def leave_frame(self) -> None:
        """Go on behind the frame."""
        self.unframe()
        if self.position >= self.end:
            raise Broken(TRUNCATED, "The file ends before the model does.")

    def unframe(self) -> None:
        """Read to the end of the file again."""
        self.framed = False
        self.end = len(self.content)

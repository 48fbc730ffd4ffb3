"""The kinds of refusal: what any room may answer instead of doing what it was asked.

A room raises one of these; each door translates the kind into its own shape (an HTTP status, an exit
code, a job's row error). `code` is public and stable, `detail` is written for the person who reads it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input: where (RFC 6901 JSON pointer), which rule, in words."""

    pointer: str
    code: str
    message: str


def member(pointer: str, name: str) -> str:
    """Give the JSON pointer of an object's member (RFC 6901, section 3)."""
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


class Refusal(Exception):  # noqa: N818 - it names a fact, not a fault of ours
    """The request cannot be done; the caller is told why and what to do."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        problems: tuple[Problem, ...] = (),
        more: dict[str, object] | None = None,
    ) -> None:
        """`problems` are reported one by one, `more` holds further public facts (such as names to choose from)."""
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.problems = problems
        self.more = more or {}


class Malformed(Refusal):
    """The message cannot be read at all."""


class Invalid(Refusal):
    """The message can be read, but what it says is not acceptable."""


class Unauthenticated(Refusal):
    """No known key came with the request."""


class Forbidden(Refusal):
    """The key is known and may not do this."""


class NotFound(Refusal):
    """No such thing, or none that the caller may know of."""


class Conflict(Refusal):
    """The present state does not allow it."""


class TooLarge(Refusal):
    """More than the server takes at once."""


class TooMany(Refusal):
    """A limit is used up for now."""

    def __init__(self, code: str, detail: str, *, retry_after_seconds: int) -> None:
        """`retry_after_seconds` is when the next request can succeed."""
        super().__init__(code, detail)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(Refusal):
    """The server cannot do it at the moment; trying again later may succeed."""


class NoRoom(Unavailable):
    """A disk is full: the same succeeds once there is room."""

    def __init__(
        self, detail: str = "The server's disk is full, so this was not done; try again when there is room on it."
    ) -> None:
        """`detail` is for what can be said better."""
        super().__init__("disk_full", detail)


def is_no_room(error: OSError) -> bool:
    """Whether the operating system says that a disk is full, or somebody's share of it."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def having_room() -> Iterator[None]:
    """Say in words that the disk is full, whatever was to be written."""
    try:
        yield
    except OSError as error:
        if is_no_room(error):
            raise NoRoom from error
        raise

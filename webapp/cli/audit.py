"""`modelport audit`: whether the trail of changes is as it was written."""

from __future__ import annotations

import re
import sys

import click

from webapp import audit
from webapp.audit import Anchor
from webapp.cli import Console, Group, pass_console

_ANCHOR = re.compile(r"(\d{1,9}):([0-9a-f]{64})")


class AnchorType(click.ParamType):  # type: ignore[type-arg] # generic for its types only
    """`NUMBER:DIGEST`, as a log line or an earlier look has it."""

    name = "NUMBER:DIGEST"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Anchor:
        """Read it."""
        found = _ANCHOR.fullmatch(value)
        if found is None:
            self.fail("give the number and the digest of a row, as `audit verify` or the log has said them", param, ctx)
        return Anchor(int(found[1]), found[2])


@click.group("audit", cls=Group)
def group() -> None:
    """See whether the trail of changes is as it was written."""


@group.command()
@click.option("--known", type=AnchorType(), help="A row as it was seen at another time, best outside of this machine.")
@pass_console
def verify(console: Console, known: Anchor | None) -> None:
    """Work out the chain of the trail again: finds rows that were edited, deleted or put in.

    Who can write the database can also make the whole chain anew: rows that were seen elsewhere (--known) tell.
    """
    with console.database.reading() as session:
        trail = audit.verify(session, known)
    console.answer(trail.as_dict(), trail.sentence)
    if trail.broken is not None:
        sys.exit(1)

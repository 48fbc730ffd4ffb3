"""`modelport alerts`: what needs a person."""

from __future__ import annotations

import click

from webapp import alerts
from webapp.alerts import STATES
from webapp.cli import Console, Group, pass_console

MOST = 200


@click.group("alerts", cls=Group)
def group() -> None:
    """See what needs a person."""


@group.command("list")
@click.option("--state", type=click.Choice([*STATES, "all"]), default="open", help="In this state; default: open.")
@pass_console
def list_alerts(console: Console, state: str) -> None:
    """List alerts, the newest first; at most 200."""
    with console.database.reading() as session:
        found = alerts.search(session, STATES if state == "all" else [state], most=MOST)
        described = [alerts.describe(each) for each in found]
    lines = [
        f"{each.id:>5}  {each.state:12}  {each.severity:8}  since {each.opened_at:%Y-%m-%d %H:%M}  {each.sentence}"
        for each in found
    ]
    nothing = "No alert is open." if state == "open" else "There is no such alert."
    console.answer({"alerts": described}, "\n".join(lines) or nothing)

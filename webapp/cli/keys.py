"""`modelport keys`: make, list and revoke API keys."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from webapp import keys, registry
from webapp.cli import Console, Group, pass_console
from webapp.keys import SCOPES

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Life(click.ParamType[timedelta]):
    """A span such as 90d, 12h or 30m."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read the span."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", str(value))
        if found is None:
            self.fail(f"{value} is no span; write it like 90d, 12h or 30m.", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


@click.group("keys", cls=Group)
def group() -> None:
    """Make, list and revoke API keys."""


@group.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="May do this; default: predict, batch."
)
@click.option("--model", "models", multiple=True, help="May use this model; default: every model.")
@click.option("--rate-limit", help='Such as "1000/minute"; default: MODELPORT_RATE_LIMIT.')
@click.option("--expires", type=Life(), default=keys.DEFAULT_LIFE, help="Life, such as 90d; default: 365d.")
@click.option("--owner", default="", help="Whom to ask about it.")
@click.option("--test", is_flag=True, help="A test key: its predictions are marked and stay out of statistics.")
@pass_console
def create(  # noqa: PLR0913 - one parameter per option
    console: Console,
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    rate_limit: str | None,
    expires: timedelta,
    owner: str,
    test: bool,  # noqa: FBT001 - click's interface
) -> None:
    """Make a key called NAME. It is shown this once."""
    with console.database.transaction() as session:
        row, key = keys.create(
            session,
            console.actor,
            console.settings.derive(keys.PEPPER),
            name,
            owner=owner,
            scopes=scopes or ("predict", "batch"),
            models=models,
            rate_limit=rate_limit,
            life=expires,
            test=test,
        )
        described = keys.describe(row)
        known = {line.name for line in registry.model_lines(session)}
    said = [key, f"This is the only time the key is shown. Its id is {row.id}."]
    said += [
        f"There is no model “{name}” yet; the key is for it once there is." for name in models if name not in known
    ]
    console.answer({**described, "key": key}, "\n".join(said))


@group.command("list")
@pass_console
def list_keys(console: Console) -> None:
    """List every key, without the keys themselves."""
    with console.database.reading() as session:
        found = keys.all_keys(session)
    lines = [
        f"{row.id}  {row.state:7}  until {row.expires_at:%Y-%m-%d}  {row.rate_limit or 'default limit':14}"
        f"  {row.name}: {', '.join(row.scopes)}; {', '.join(row.models or ['every model'])}"
        for row in found
    ]
    console.answer({"keys": [keys.describe(row) for row in found]}, "\n".join(lines) or "There are no keys yet.")


@group.command()
@click.argument("key_id")
@click.option(
    "--overlap", type=Life(), default=timedelta(hours=24), help="How long the old key works on; default: 24h."
)
@pass_console
def roll(console: Console, key_id: str, overlap: timedelta) -> None:
    """Make a successor of the key with the id KEY_ID; both work for a while."""
    with console.database.transaction() as session:
        row, key = keys.roll(session, console.actor, console.settings.derive(keys.PEPPER), key_id, overlap)
        described = keys.describe(row)
    text = f"{key}\nThis is the only time the key is shown. Its id is {row.id}; {key_id} works on for {overlap}."
    console.answer({**described, "key": key, "replaces": key_id}, text)


@group.command()
@click.argument("key_id")
@pass_console
def revoke(console: Console, key_id: str) -> None:
    """End the key with the id KEY_ID for good."""
    with console.database.transaction() as session:
        row = keys.revoke(session, console.actor, key_id)
        described = keys.describe(row)
    console.answer(described, f"The key {row.id} ({row.name}) is revoked.")

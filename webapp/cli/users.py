"""`modelport users`: who may come into the admin UI."""

from __future__ import annotations

import sys

import click

from webapp import passwords, users
from webapp.cli import Console, Group, pass_console
from webapp.users import LINK_LIFE, ROLES, User


@click.group("users", cls=Group)
def group() -> None:
    """Let people into the admin UI, and keep them out."""


@group.command()
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(ROLES), help="What they may do.")
@click.option("--password-stdin", is_flag=True, help="Read a password from standard input; else they get a link.")
@pass_console
def create(console: Console, name: str, role: str, password_stdin: bool) -> None:  # noqa: FBT001 - click's interface
    """Make a user called NAME, who signs in by the link that is printed, or by a password."""
    stored = _stored_password(name) if password_stdin else None
    with console.database.transaction() as session:
        user = users.create(session, console.actor, name, role)
        if stored:
            users.set_password(session, console.actor, user, stored)
        token = None if stored else users.make_link(session, user)
        described = users.describe(user)
    _answer(console, described, token, f"The user {name} ({role}) is made.")


def _stored_password(name: str) -> str:
    password = sys.stdin.readline().rstrip("\n")
    passwords.check(password, (name,))
    return passwords.hashed(password)


def _answer(console: Console, described: dict[str, object], token: str | None, text: str) -> None:
    if token is None:
        console.answer(described, text)
        return
    link = f"{console.settings.url}/login/{token}"
    minutes = int(LINK_LIFE.total_seconds() // 60)
    console.answer({**described, "link": link}, f"{text}\nSign in, once and within {minutes} minutes: {link}")


@group.command("list")
@pass_console
def list_users(console: Console) -> None:
    """List every user."""
    with console.database.reading() as session:
        found = users.all_users(session)
    lines = [f"{user.name}  {user.role}  {_state(user)}" for user in found]
    text = "\n".join(lines) or "There are no users yet; make one: modelport users create NAME --role admin"
    console.answer({"users": [users.describe(user) for user in found]}, text)


def _state(user: User) -> str:
    if user.disabled_at:
        return "disabled"
    return "signs in by password" if user.password else "signs in by link"


@group.command()
@click.argument("name")
@pass_console
def disable(console: Console, name: str) -> None:
    """Keep the user NAME out: sessions and links end at once."""
    with console.database.transaction() as session:
        described = users.describe(users.disable(session, console.actor, name))
    console.answer(described, f"The user {name} is kept out.")


@group.command()
@click.argument("name")
@pass_console
def enable(console: Console, name: str) -> None:
    """Let a disabled user in again."""
    with console.database.transaction() as session:
        described = users.describe(users.enable(session, console.actor, name))
    console.answer(described, f"The user {name} may come in again.")


@group.command("reset-password")
@click.argument("name")
@pass_console
def reset_password(console: Console, name: str) -> None:
    """Forget the password of NAME, end the sessions, and print a sign-in link."""
    with console.database.transaction() as session:
        token = users.reset_password(session, console.actor, name)
        described = users.describe(users.get_user(session, name))
    _answer(console, described, token, f"The password of {name} is forgotten; every session has ended.")

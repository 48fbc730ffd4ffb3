"""Writes docs/roles.md: which role each page of the admin UI asks for, as the routes themselves say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from flask import Flask

from webapp import app, config
from webapp.admin.guard import ANYONE
from webapp.users import ROLES, includes

DOCUMENT = Path(__file__).parent.parent / "docs" / "roles.md"
HEAD = """# Roles

Each role may do what those before it may. Every route of the admin UI names the role it asks for; one that names none
is open to nobody. This table is made from the routes (`python scripts/roles.py`), and `tests/admin/test_roles.py` asks
each of them as each role.

| Method | Path | What it does | Signed out | Viewer | Operator | Admin |
|---|---|---|---|---|---|---|
"""


def lines(app: Flask) -> Iterator[str]:
    """Give the table's lines, one for each way to ask a route."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, sorted(rule.methods or ()))):
        if rule.endpoint.startswith("admin_"):
            view = app.view_functions[rule.endpoint]
            needed = getattr(view, "role", None)
            does = (view.__doc__ or "").partition("\n")[0]
            opens = ["yes" if needed == ANYONE else "no", *(_may(role, needed) for role in ROLES)]
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield f"| {method} | `{rule.rule.replace('|', chr(92) + '|')}` | {does} | {' | '.join(opens)} |"


def _may(role: str, needed: str | None) -> str:
    return "yes" if needed == ANYONE or (needed is not None and includes(role, needed)) else "no"


def document(app: Flask) -> str:
    """Give the whole document."""
    return HEAD + "\n".join(lines(app)) + "\n"


def main() -> None:
    """Write it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = config.prepare(config.load({"MODELPORT_DATA_DIR": folder}))
        DOCUMENT.write_text(document(app.create_app(settings)), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Ground truth over HTTP: what turned out to be true, for many predictions at once."""

from __future__ import annotations

from typing import Any

from flask import Response, g, jsonify

from webapp import body, feedback, metrics, web
from webapp.api import blueprint, requires
from webapp.errors import Invalid, Problem, TooLarge

door = blueprint("feedback")


@door.post("/feedback")
@requires("feedback")
def tell() -> Response:
    """Take items by themselves: what is wrong with one keeps no other out."""
    made = web.parts()
    items = _asked(made.settings.max_instances)
    with made.database.transaction() as session:
        answers = feedback.take(session, g.key.id, items)
    found = feedback.counted(answers)
    for status, count in found.items():
        metrics.FEEDBACK.labels(status).inc(count)
    g.facts |= {"items": len(items)}
    return jsonify(**found, items=[answer.as_dict() for answer in answers])


def _asked(most: int) -> list[Any]:
    """Read the items of this request: a table where it says that it is one, else JSON."""
    items = _rows(most) if body.is_csv() else _items(body.read_json())
    if not items:
        message = "At least one item is needed."
        raise Invalid("no_items", message, problems=(Problem("/items", "no_items", message),))
    if len(items) > most:
        raise TooLarge("too_many_items", f"More items than the {most} that fit one request.")
    return items


def _items(document: object) -> list[Any]:
    """Give many (`items`), or one as the whole body."""
    if not isinstance(document, dict):
        message = 'The body is {"items": [...]}, or one item.'
        raise Invalid("not_an_object", message, problems=(Problem("", "not_an_object", message),))
    if "items" not in document:
        return [document]
    if len(document) > 1 or not isinstance(document["items"], list):
        message = "“items” is a list, and nothing stands beside it."
        raise Invalid("not_a_list", message, problems=(Problem("/items", "not_a_list", message),))
    items: list[Any] = document["items"]
    return items


def _rows(most: int) -> list[Any]:
    """Give a row of a table as an item; an empty cell is nothing there."""
    columns = body.read_csv(most)
    rows = zip(*columns.values(), strict=True)
    return [{name: cell for name, cell in zip(columns, row, strict=True) if cell} for row in rows]

"""Pages that look at versions side by side, and back: how two of them differ, and which one was active when."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from webapp import registry, web
from webapp.admin.guard import blueprint, needs
from webapp.admin.pages import page
from webapp.errors import Invalid
from webapp.registry import Version
from webapp.serving.compare import Side, compare

door: Blueprint = blueprint("comparing")

# More to choose from than anyone scrolls through.
MOST_CHOICES = 200


@door.get("/models/<name>/compare")
@needs("viewer")
def show(name: str) -> Response:
    """Compare two versions: what they take, how they were made, what they say to the same rows, and how fast."""
    made = web.parts()
    with made.database.reading() as session:
        pair = registry.to_compare(session, name, request.args.get("from"), request.args.get("to"))
        lines = registry.version_lines(session, pair.new.model, most=MOST_CHOICES)
    references = {number: made.artifacts.get(digest) for number, digest in pair.references.items()}
    found = compare(_side(name, pair.old), _side(name, pair.new), references)
    labels = {line.number: line.label for line in lines}
    labels |= {version.number: version.label for version in (pair.old, pair.new)}
    choices = [(number, f"v{number} ({label})" if label else f"v{number}") for number, label in labels.items()]
    return page("comparing/show.html", found=found, choices=choices, active=pair.new.model.active_number)


def _side(name: str, version: Version) -> Side:
    loaded = web.parts().follower.served(name, version.number)
    return Side(loaded, version.card, version.report, version.created_at, version.created_by)


@door.get("/models/<name>/as-of")
@needs("viewer")
def as_of(name: str) -> Response:
    """Say which version was active at a moment, and who had put it there."""
    typed = request.args.get("as_of", "").strip()[:50]
    facts: dict[str, Any] = {"moment": None, "then": None, "error": ""}
    with web.parts().database.reading() as session:
        model = registry.get_model(session, name)
        try:
            if typed:
                facts["moment"] = registry.read_moment(typed)
                facts["then"] = registry.active_at(session, model, facts["moment"])
        except Invalid as refusal:
            facts["error"] = refusal.detail
        history = registry.history(session, model)
    return page("comparing/as_of.html", 422 if facts["error"] else 200, model=model, history=history, **facts)

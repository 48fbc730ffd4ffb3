"""First calls to paste: what a person sends to a version, as a command and as a program."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from webapp import registry
from webapp.db import Session
from webapp.predictions import search
from webapp.registry import Version
from webapp.signature import example as made_up
from webapp.signature import from_dict


@dataclass(frozen=True, slots=True)
class Call:
    """A request that works: its path, and an instance that the version takes."""

    path: str
    instance: dict[str, Any]

    def curl(self, base: str, key: str = "$MODELPORT_KEY") -> str:
        """Give a command on few lines; `base` is the server's address."""
        body = shlex.quote(json.dumps(self.instance, ensure_ascii=False))
        return (
            f'curl {base.rstrip("/")}{self.path} \\\n  -H "X-API-Key: {key}" \\\n'
            f'  -H "Content-Type: application/json" \\\n  -d {body}'
        )

    def python(self, base: str) -> str:
        """Give the same in Python."""
        lines = "".join(f"\n        {_literal(name)}: {_literal(value)}," for name, value in self.instance.items())
        return (
            "import os\nimport requests\n\nanswer = requests.post(\n"
            f'    "{base.rstrip("/")}{self.path}",\n'
            '    headers={"X-API-Key": os.environ["MODELPORT_KEY"]},\n'
            f"    json={{{lines}\n    }},\n)\nprint(answer.json())"
        )


def _literal(value: object) -> str:
    """Write a value as Python does, but a text in double quotes, which Python reads as JSON does."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def to_version(version: Version, *, active: bool) -> Call:
    """Give a call to a version: by the model's name when it is the active one."""
    name = version.model.name
    path = f"/models/{name}/predict" if active else f"/models/{name}/versions/{version.number}/predict"
    return Call(path, made_up.instance(from_dict(version.signature)))


@dataclass(frozen=True, slots=True)
class Telling:
    """A request that tells what was true for a prediction of a version."""

    # None where there is no prediction yet.
    prediction_id: str | None
    outcome: Any

    def curl(self, base: str, key: str = "$MODELPORT_KEY") -> str:
        """Give a command on few lines; `base` is the server's address."""
        item = {"prediction_id": self.prediction_id or "PREDICTION_ID", "outcome": self.outcome}
        body = shlex.quote(json.dumps({"items": [item]}, ensure_ascii=False))
        return (
            f'curl {base.rstrip("/")}/feedback \\\n  -H "X-API-Key: {key}" \\\n'
            f'  -H "Content-Type: application/json" \\\n  -d {body}'
        )


def telling(session: Session, name: str, number: int) -> Telling:
    """Give how to tell the truth of the newest prediction of a version, made up from what it can answer."""
    version = registry.get_version(session, registry.get_model(session, name), number)
    signature = from_dict(version.signature)
    outcomes = {each.name: 12.5 if each.classes is None else each.classes[-1] for each in signature.outputs}
    newest = search.search(session, search.Wanted(model=name, version=number), size=1).rows
    outcome = outcomes if signature.multi_output else next(iter(outcomes.values()))
    return Telling(newest[0].id if newest else None, outcome)


def example(session: Session, models: Sequence[str] | None) -> Call | None:
    """Give a call to the first of these models (of all, when None) that has an active version."""
    for line in registry.model_lines(session):
        if line.active_number is not None and (models is None or line.name in models):
            model = registry.get_model(session, line.name)
            return to_version(registry.get_version(session, model, line.active_number), active=True)
    return None

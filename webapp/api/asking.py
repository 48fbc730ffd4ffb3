"""What a request asks to be predicted: one instance or many as JSON, or a table as CSV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp import body
from webapp.errors import Invalid, Problem, TooLarge, member
from webapp.signature import Signature, cells

MOST_ID_CHARACTERS = 200
# The column of a table that holds the caller's own ids, unless it is a feature.
ID = "id"


@dataclass(frozen=True, slots=True)
class Asked:
    """The instances of one request, their place in its body, and the caller's own ids for them."""

    instances: list[Any]
    pointers: list[str]
    ids: list[str | None]
    single: bool


def read(signature: Signature, most: int) -> Asked:
    """Read this request's body, a table where it says that it is one, else JSON; `most` instances at most."""
    return _table(signature, most) if body.is_csv() else _from_json(body.read_json(), most)


def _from_json(document: object, most: int) -> Asked:
    """Read one instance (a flat object) or many (`instances`, with `ids` where the caller has some)."""
    if not isinstance(document, dict):
        message = 'The body is one instance, an object, or {"instances": [...]}.'
        raise Invalid("not_an_object", message, problems=(Problem("", "not_an_object", message),))
    if not isinstance(document.get("instances"), list):
        return Asked([document], [""], [None], single=True)
    instances = document["instances"]
    if strangers := set(document) - {"instances", "ids"}:
        problems = tuple(
            Problem(member("", name), "unknown_field", "Beside “instances” only “ids” may stand.")
            for name in sorted(strangers)
        )
        raise Invalid("unknown_field", "The body has fields that mean nothing here.", problems=problems)
    if not instances:
        problem = Problem("/instances", "empty", "At least one instance is needed.")
        raise Invalid("no_instances", problem.message, problems=(problem,))
    if len(instances) > most:
        raise _too_many(str(len(instances)), most)
    return _many(instances, _ids(document.get("ids"), len(instances)))


def _many(instances: list[Any], ids: list[str | None]) -> Asked:
    pointers = [f"/instances/{position}" for position in range(len(instances))]
    return Asked(instances, pointers, ids, single=False)


def _too_many(count: str, most: int) -> TooLarge:
    return TooLarge("too_many_instances", f"{count} instances; at most {most} fit one request.")


def _ids(given: Any, count: int) -> list[str | None]:  # noqa: ANN401 - any JSON value
    if given is None:
        return [None] * count
    usable = isinstance(given, list) and len(given) == count
    # PostgreSQL takes no NUL: the log would wait behind it for ever.
    if not usable or not all(
        isinstance(each, str) and len(each) <= MOST_ID_CHARACTERS and "\0" not in each for each in given
    ):
        message = f"One string of up to {MOST_ID_CHARACTERS} characters other than NUL per instance."
        raise Invalid("ids_unusable", message, problems=(Problem("/ids", "ids_unusable", message),))
    return list(given)


def _table(signature: Signature, most: int) -> Asked:
    """Read a table. Its rows are counted as the instances of JSON are: the first one is `/instances/0`."""
    columns = body.read_csv(most)
    count = len(next(iter(columns.values())))
    if not count:
        problem = Problem("", "empty", "Behind the line of names at least one row is needed.")
        raise Invalid("no_instances", problem.message, problems=(problem,))
    if count > most:
        # The others were not read.
        raise _too_many(f"More than {most}", most)
    named = ID in columns and all(feature.name != ID for feature in signature.features)
    ids = _ids(list(columns.pop(ID)) if named else None, count)
    if not columns:
        problem = Problem("", "empty", "The table has no column beside its ids.")
        raise Invalid("no_instances", problem.message, problems=(problem,))
    return _many(cells.instances(signature, columns), ids)

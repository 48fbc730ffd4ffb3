"""Activation: a version is made ready where it will answer, becomes the active one at once, and workers follow."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from webapp import faults, fleet, generation, registry
from webapp.audit import Actor
from webapp.catalog import ServedVersion
from webapp.db import Database, Session
from webapp.errors import Conflict
from webapp.fleet import Preparation
from webapp.registry import Activation, Model, Version
from webapp.signature import from_dict
from webapp.signature.compare import Difference, differences

LIMIT_SECONDS = 20.0
LOOK_SECONDS = 0.02
# A model of so many bytes takes longer to load.
LARGE_BYTES = 50 * 2**20
LARGE_LIMIT_SECONDS = 60.0

# Loads a version where no web worker lives; gives why it cannot be loaded, or nothing.
Load = Callable[[ServedVersion], str]


@dataclass(frozen=True, slots=True)
class Convergence:
    """How many live web workers serve the committed state, and what the others say."""

    total: int
    switched: int
    failures: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Give the public form."""
        return {"total": self.total, "switched": self.switched, "failures": list(self.failures)}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to become active, and what the person who asks for it knows."""

    model: str
    number: int
    reason: str = ""
    # The model's name, typed by who knows that requests which work now can be refused.
    confirm: str = ""
    # The scikit-learn version that the file is of, named by who knows that it is not the one that serves.
    accept_trained_with: str = ""


@dataclass(frozen=True, slots=True)
class Back:
    """A wish to return to the version that was active before; `expected` is the one that its button named."""

    model: str
    reason: str = ""
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Switched:
    """An activation that was committed, in its public form, and how far the workers were when it was waited for."""

    activation: dict[str, Any]
    workers: Convergence


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was read before preparing; the commit holds only for as long as it is so."""

    version: ServedVersion
    count: int
    limit_seconds: float


def activate(
    database: Database, load: Load, actor: Actor, asked: Asked, follow_seconds: float = LIMIT_SECONDS
) -> Switched:
    """Make a version the active one, once every live web worker has loaded it; give how the workers followed.

    Raises `Conflict`, and nothing has changed, when a worker cannot load it, when it asks for a confirmation that was
    not given, and when another activation was faster. Where no web worker lives, `load` tries it.
    """
    with database.reading() as session:
        model = registry.get_model(session, asked.model)
        version = registry.get_version(session, model, asked.number)
        registry.check_inactive(model, asked.number)
        _check_signature(session, model, version, asked)
        _check_library(version, asked)
        plan = _plan(session, model, asked.number)
    _prepare(database, load, plan)
    return _commit(
        database,
        plan,
        lambda session: registry.activate(session, actor, asked.model, asked.number, asked.reason, count=plan.count),
        follow_seconds,
    )


def rollback(
    database: Database, load: Load, actor: Actor, back: Back, follow_seconds: float = LIMIT_SECONDS
) -> Switched:
    """Return to the version that was active before: the same act, but it needs no confirmation, as it answered once."""
    with database.reading() as session:
        model = registry.get_model(session, back.model)
        plan = _plan(session, model, registry.way_back(session, model, back.expected))
    _prepare(database, load, plan)
    return _commit(
        database,
        plan,
        lambda session: registry.rollback(session, actor, back.model, back.reason, count=plan.count),
        follow_seconds,
    )


# --- What a person must know first --------------------------------------------------------------------------


def breaking(session: Session, model: Model, version: Version) -> list[Difference]:
    """Give why requests that work on the active version can be refused by another one."""
    if model.active_number is None:
        return []
    active = registry.get_version(session, model, model.active_number)
    return [each for each in differences(from_dict(active.signature), from_dict(version.signature)) if each.breaking]


def _check_signature(session: Session, model: Model, version: Version, asked: Asked) -> None:
    found = breaking(session, model, version)
    if not found or asked.confirm == model.name:
        return
    listed = "; ".join(f"{each.feature}: {each.sentence}" for each in found)
    detail = (
        f"Requests that work on version {model.active_number} can be refused by version {version.number} ({listed})."
        f" Nothing has changed. If that is meant, confirm it with the model's name, {model.name}."
    )
    more = [{"feature": each.feature, "difference": each.word.lower(), "detail": each.sentence} for each in found]
    raise Conflict("signature_incompatible", detail, more={"differences": more})


def _check_library(version: Version, asked: Asked) -> None:
    trained_with = version.trained_with
    if trained_with in {None, asked.accept_trained_with}:
        return
    detail = (
        f"Version {version.number} was trained with scikit-learn {trained_with}, another one than serves it."
        f" Nothing has changed. If that is meant, accept it by naming {trained_with}."
    )
    raise Conflict("version_needs_consent", detail, more={"trained_with": trained_with})


# --- Prepare, commit ----------------------------------------------------------------------------------------


def _plan(session: Session, model: Model, number: int) -> _Plan:
    version = registry.get_version(session, model, number)
    is_large = version.report.get("file", {}).get("bytes", 0) > LARGE_BYTES
    served = registry.catalog(session).resolve(model.name, number)
    return _Plan(served, model.activation_count, LARGE_LIMIT_SECONDS if is_large else LIMIT_SECONDS)


def _prepare(database: Database, load: Load, plan: _Plan) -> None:
    """Return when every live web worker has the version loaded; raise `Conflict` when one cannot, or is too slow."""
    with database.transaction() as session:
        ids = fleet.ask(session, plan.version.model, plan.version.number)
    faults.point("activation.asked")
    try:
        ready = _prepared(database, plan, ids)
    except Conflict:
        with database.transaction() as session:
            fleet.give_up(session, ids)
        raise
    if not ready:
        _prepare_here(load, plan.version)
    faults.point("activation.prepared")


def _prepared(database: Database, plan: _Plan, ids: list[int]) -> int:
    """Wait for the workers that were asked; give how many are ready.

    The limit is one load's, as they load one after another: it begins anew with each one that is ready.
    """
    ready, until = 0, time.monotonic() + plan.limit_seconds
    while True:
        with database.reading() as session:
            state = fleet.progress(session, ids)
        if state.ready > ready:
            ready, until = state.ready, time.monotonic() + plan.limit_seconds
        if state.failed:
            raise _failed(plan.version, [(each, each.failure) for each in state.failed])
        if not state.waiting:
            return state.ready
        if time.monotonic() > until:
            late = f"It did not become ready within {plan.limit_seconds:.0f} seconds."
            raise _failed(plan.version, [(each, late) for each in state.waiting])
        time.sleep(LOOK_SECONDS)


def _failed(version: ServedVersion, why: list[tuple[Preparation, str]]) -> Conflict:
    found = [{"host": each.host, "slot": each.slot, "reason": said} for each, said in why]
    said = " ".join(f"{each['host']} slot {each['slot']}: {each['reason']}" for each in found)
    return _refusal(version, said, {"failures": found})


def _refusal(version: ServedVersion, said: str, more: dict[str, object]) -> Conflict:
    detail = f"Version {version.number} of “{version.model}” cannot be served; nothing has changed. {said}"
    return Conflict("activation_failed", detail, more=more)


def _prepare_here(load: Load, version: ServedVersion) -> None:
    """No web worker lives: this process tries whether the version can be loaded."""
    if said := load(version):
        here = socket.gethostname()
        raise _refusal(version, f"{here}: {said}", {"failures": [{"host": here, "slot": None, "reason": said}]})


def _commit(
    database: Database, plan: _Plan, change: Callable[[Session], Activation], follow_seconds: float
) -> Switched:
    with database.transaction() as session:
        done = change(session)
        _check_unchanged(session, plan.version)
        described = registry.describe_activation(done)
        faults.point("activation.committing")
    faults.point("activation.committed")
    return Switched(described, converged(database, follow_seconds))


def _check_unchanged(session: Session, version: ServedVersion) -> None:
    """What was prepared and agreed to is what becomes active: until then, a signature can be edited."""
    if registry.catalog(session).resolve(version.model, version.number) != version:
        detail = f"Version {version.number} of “{version.model}” was edited meanwhile; look again."
        raise Conflict("activation_lost_race", detail)


# --- Following ----------------------------------------------------------------------------------------------


def converged(database: Database, limit_seconds: float = LIMIT_SECONDS) -> Convergence:
    """Return when every live worker has followed what is committed now, or when the limit has passed."""
    with database.reading() as session:
        wanted = generation.current(session)
    until = time.monotonic() + limit_seconds
    while True:
        with database.reading() as session:
            state = look(session, wanted)
        if state.switched == state.total or time.monotonic() > until:
            return state
        time.sleep(LOOK_SECONDS)


def present(session: Session) -> Convergence:
    """Give how far the live workers are now."""
    return look(session, generation.current(session))


def look(session: Session, wanted: int) -> Convergence:
    """Give how many live workers serve a generation."""
    workers = fleet.live(session)
    failures = tuple(f"{each.host} slot {each.slot}: {each.failure}" for each in workers if each.failure)
    switched = sum(each.generation >= wanted for each in workers)
    return Convergence(len(workers), switched, failures)

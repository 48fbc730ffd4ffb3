"""Models, their numbered immutable versions, which one is active, and the history of that."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from webapp import artifacts, audit, db, generation
from webapp.audit import Actor
from webapp.catalog import Catalog, ServedModel, ServedVersion
from webapp.db import Base, Moment, now
from webapp.errors import Conflict, Invalid, NotFound
from webapp.webhooks import deliveries
from webapp.webhooks.deliveries import Message

NAME = r"[a-z0-9][a-z0-9-]{0,62}"
_NAME = re.compile(NAME)
LABEL = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_LABEL = re.compile(LABEL)
# A version's number fits a database's integer.
MOST_NUMBER = 2**31 - 1
MOST_NUMBER_DIGITS = 10
RESERVED_NAMES = frozenset({"stats"})
# What those are told who want to know of a switch.
_EVENTS = {"activate": ("model.activated", "was activated"), "rollback": ("model.rolled_back", "answers again")}
# So long after a switch the way back is offered wherever the model is shown.
UNDO_LIFE = timedelta(hours=24)


class Model(Base):
    """A named thing that people ask for."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    active_number: Mapped[int | None]
    # Counts activations: the compare-and-set that two of them at once race for.
    activation_count: Mapped[int] = mapped_column(default=0)

    versions: Mapped[list[Version]] = relationship(back_populates="model", order_by="Version.number")


class Version(Base):
    """One uploaded estimator with its signature. Nothing of it changes once it was active."""

    __tablename__ = "versions"
    __table_args__ = (sa.UniqueConstraint("model_id", "number"), sa.UniqueConstraint("model_id", "label"))

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(sa.ForeignKey("models.id"))
    number: Mapped[int]
    label: Mapped[str | None] = mapped_column(sa.Text)
    artifact: Mapped[str] = mapped_column(sa.Text)
    reference: Mapped[str | None] = mapped_column(sa.Text)
    seal: Mapped[str] = mapped_column(sa.Text)
    signature: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    card: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    report: Mapped[dict[str, Any]] = mapped_column(sa.JSON, deferred=True)
    # The artifact that holds the golden rows, and the report's digest: the seal covers both.
    golden: Mapped[str | None] = mapped_column(sa.Text)
    report_sha256: Mapped[str | None] = mapped_column(sa.Text)
    # The scikit-learn version that wrote the file, where it is not of the minor version that serves.
    trained_with: Mapped[str | None] = mapped_column(sa.Text)
    # Since when scikit-learn itself computes although a plan was proven, and why.
    plan_off_at: Mapped[datetime | None] = mapped_column(Moment)
    plan_off_reason: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(Moment)
    created_by: Mapped[str] = mapped_column(sa.Text)

    model: Mapped[Model] = relationship(back_populates="versions")


class Activation(Base):
    """One change of the active version: who, when, from, to, why."""

    __tablename__ = "activations"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(sa.ForeignKey("models.id"), index=True)
    at: Mapped[datetime] = mapped_column(Moment)
    actor: Mapped[str] = mapped_column(sa.Text)
    act: Mapped[str] = mapped_column(sa.Text)
    from_number: Mapped[int | None]
    to_number: Mapped[int]
    reason: Mapped[str] = mapped_column(sa.Text)


def check_name(name: str) -> None:
    """Raise `Invalid` unless `name` can be a model's name."""
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise Invalid(
            "model_name_not_allowed",
            f"“{name}” cannot be a model's name: use 1 to 63 of a-z, 0-9 and -, starting with a letter or digit"
            " (“stats” is taken).",
        )


def check_label(label: str | None) -> None:
    """Raise `Invalid` unless `label` can be told from a version's number."""
    if label is not None and (not _LABEL.fullmatch(label) or label.isdecimal()):
        raise Invalid(
            "label_not_allowed",
            f"“{label}” cannot be a label: use up to 64 letters, digits, dots, - and _, not digits alone.",
        )


def all_models(session: Session) -> list[Model]:
    """Every model by name."""
    return list(session.scalars(sa.select(Model).order_by(Model.name)))


def get_model(session: Session, name: str) -> Model:
    """Give a model by name."""
    model = session.scalar(sa.select(Model).where(Model.name == name))
    if model is None:
        raise NotFound("unknown_model", f"There is no model “{name}”.")
    return model


def _held_model(session: Session, name: str) -> Model:
    """Give a model that nobody else changes until this transaction ends."""
    return session.scalar(sa.select(Model).where(Model.name == name).with_for_update()) or get_model(session, name)


def number_of(session: Session, name: str, asked: str) -> int:
    """Give the number of a version that is asked for by number or label."""
    model = get_model(session, name)
    if asked.isdecimal() and len(asked) < MOST_NUMBER_DIGITS:
        return int(asked)
    for version in model.versions:
        if version.label == asked:
            return version.number
    raise NotFound("unknown_version", f"“{name}” has no version labelled “{asked}”.")


def get_version(session: Session, model: Model, number: int) -> Version:
    """Give a version of a model by its number."""
    # What no version can have, a database could not even compare with.
    found = (
        None
        if abs(number) > MOST_NUMBER
        else session.scalar(sa.select(Version).where(Version.model_id == model.id, Version.number == number))
    )
    if found is None:
        there = ", ".join(str(version.number) for version in model.versions[-10:])
        raise NotFound("unknown_version", f"“{model.name}” has no version {number}; it has {there or 'none yet'}.")
    return found


def version_before(session: Session, name: str) -> Version | None:
    """Give the version that a new one comes after: the active one, else the newest."""
    model = session.scalar(sa.select(Model).where(Model.name == name))
    if model is None:
        return None
    if model.active_number is not None:
        return get_version(session, model, model.active_number)
    newest = sa.select(Version).where(Version.model_id == model.id).order_by(Version.number.desc()).limit(1)
    return session.scalar(newest)


def newest_reference(session: Session, name: str) -> str | None:
    """Give the reference of the newest version of a model that has one."""
    having = sa.select(Version.reference).join(Model).where(Model.name == name, Version.reference.is_not(None))
    return session.scalar(having.order_by(Version.number.desc()).limit(1))


def every_artifact(session: Session) -> set[str]:
    """Give the names of all stored bytes that a version needs."""
    needed = session.execute(sa.select(Version.artifact, Version.reference, Version.golden))
    return {digest for row in needed for digest in row if digest}


def version_made_of(session: Session, name: str, inputs_sha256: str) -> int | None:
    """Give the number of the first version that was made of the same files."""
    same = Version.report["inputs_sha256"].as_string() == inputs_sha256
    return session.scalar(
        sa.select(Version.number).join(Model).where(Model.name == name, same).order_by(Version.number).limit(1)
    )


def _model_for_upload(session: Session, name: str) -> Model:
    check_name(name)
    # Of two first uploads at once one makes it, and of two later ones one waits: each version gets its own number.
    made = db.insertion(session, Model).values(name=name, created_at=now(), activation_count=0)
    session.execute(made.on_conflict_do_nothing())
    model = _held_model(session, name)
    session.expire(model, ["versions"])
    return model


def add_version(  # noqa: PLR0913 - the parts of a version, each by name
    session: Session,
    actor: Actor,
    secret: bytes,
    name: str,
    *,
    artifact: str,
    signature: dict[str, Any],
    report: dict[str, Any],
    card: dict[str, Any],
    reference: str | None = None,
    golden: str | None = None,
    trained_with: str | None = None,
    label: str | None = None,
) -> Version:
    """Register an inspected artifact as the next version of a model, which is made when it is the first."""
    model = _model_for_upload(session, name)
    check_label(label)
    if label is not None and any(version.label == label for version in model.versions):
        raise Conflict("label_taken", f"“{name}” already has a version labelled “{label}”.")
    number = max((version.number for version in model.versions), default=0) + 1
    version = Version(
        model=model,
        number=number,
        label=label,
        artifact=artifact,
        reference=reference,
        golden=golden,
        report_sha256=_digest(report),
        trained_with=trained_with,
        seal="",
        signature=signature,
        card=card,
        report=report,
        created_at=now(),
        created_by=actor.name,
    )
    version.seal = _seal(secret, version)
    session.add(version)
    audit.record(session, actor, "models.upload", f"{name}/{number}", artifact=artifact, label=label)
    generation.advance(session)
    return version


def _digest(report: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()


def _seal(secret: bytes, version: Version) -> str:
    return artifacts.seal(
        secret,
        version.model.name,
        version.number,
        version.artifact,
        version.signature,
        golden=version.golden,
        report_sha256=version.report_sha256,
    )


def is_sealed_with(session: Session, secret: bytes) -> bool:
    """Whether versions were sealed with this secret, as far as there are any; one that was damaged says nothing."""
    some = session.scalars(sa.select(Version).order_by(Version.id.desc()).limit(10)).all()
    return not some or any(version.seal == _seal(secret, version) for version in some)


def damaged_reports(session: Session, name: str) -> set[int]:
    """Give the versions whose report is not the one that they were sealed with."""
    reports = sa.select(Version.number, Version.report, Version.report_sha256).join(Model).where(Model.name == name)
    return {number for number, report, digest in session.execute(reports) if digest not in {None, _digest(report)}}


def activate(
    session: Session, actor: Actor, name: str, number: int, reason: str = "", *, count: int | None = None
) -> Activation:
    """Make a version the active one. `Conflict` when it is already, or when another activation was faster.

    `count` is how many activations there were when it was decided; without it, the present state is meant.
    """
    model = _held_model(session, name)
    _check_count(model, count)
    get_version(session, model, number)
    return _set_active(session, actor, model, "activate", number, reason)


def rollback(session: Session, actor: Actor, name: str, reason: str = "", *, count: int | None = None) -> Activation:
    """Return to the version that was active before the present one. `Conflict` and `count` as in `activate`."""
    model = _held_model(session, name)
    _check_count(model, count)
    return _set_active(session, actor, model, "rollback", way_back(session, model), reason)


def way_back(session: Session, model: Model, expected: int | None = None) -> int:
    """Give the version that a roll back returns to; `Conflict` when that is not the expected one."""
    number = previous_active(history(session, model))
    if number is None:
        name = model.name
        detail = f"No version of “{name}” was active before the present one that was not rolled back; activate one."
        raise Conflict("nothing_to_roll_back_to", detail)
    if expected not in {None, number}:
        detail = f"The way back leads to version {number} now, not to {expected}: the active version has changed since."
        raise Conflict("activation_lost_race", detail)
    return number


def check_inactive(model: Model, number: int) -> None:
    """Raise `Conflict` when a version is the active one already."""
    if model.active_number == number:
        raise Conflict("already_active", f"Version {number} of “{model.name}” is already the active one.")


def _check_count(model: Model, count: int | None) -> None:
    if count not in {None, model.activation_count}:
        raise Conflict("activation_lost_race", f"Another activation of “{model.name}” was faster; look again.")


def _set_active(session: Session, actor: Actor, model: Model, act: str, number: int, reason: str) -> Activation:
    check_inactive(model, number)
    changed = session.execute(
        sa.update(Model)
        .where(Model.id == model.id, Model.activation_count == model.activation_count)
        .values(active_number=number, activation_count=Model.activation_count + 1)
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined] # an UPDATE's result has it
        raise Conflict("activation_lost_race", f"Another activation of “{model.name}” was faster; look again.")
    activation = Activation(
        model_id=model.id,
        at=now(),
        actor=actor.name,
        act=act,
        from_number=model.active_number,
        to_number=number,
        reason=reason,
    )
    session.add(activation)
    audit.record(
        session, actor, f"models.{act}", model.name, from_number=model.active_number, to_number=number, reason=reason
    )
    generation.advance(session)
    session.expire(model)
    _tell(session, model.name, activation)
    return activation


def _tell(session: Session, name: str, activation: Activation) -> None:
    event, act = _EVENTS[activation.act]
    sentence = f"{name} v{activation.to_number} {act}.{f' {activation.reason}' if activation.reason else ''}"
    page = f"/admin/models/{name}/versions/{activation.to_number}"
    deliveries.tell(session, Message(event, sentence, page, {"model": name, **describe_activation(activation)}))


def history(session: Session, model: Model) -> list[Activation]:
    """Every activation and rollback of a model, the oldest first."""
    return list(session.scalars(sa.select(Activation).where(Activation.model_id == model.id).order_by(Activation.id)))


def activations_between(
    session: Session, since: datetime, until: datetime, name: str | None, most: int
) -> list[tuple[str, Activation]]:
    """Give the last activations and rollbacks of a time with their models' names, the oldest first."""
    found = sa.select(Model.name, Activation).join(Model, Activation.model_id == Model.id)
    within = found.where(Activation.at >= since, Activation.at < until)
    chosen = within if name is None else within.where(Model.name == name)
    newest = session.execute(chosen.order_by(Activation.id.desc()).limit(most)).all()
    return [(model, activation) for model, activation in reversed(newest)]


def active_at(session: Session, model: Model, moment: datetime) -> Activation | None:
    """Give the activation or rollback that was the last one at a moment: its version was the active one."""
    until = sa.select(Activation).where(Activation.model_id == model.id, Activation.at <= moment)
    return session.scalar(until.order_by(Activation.id.desc()).limit(1))


def read_moment(text: str) -> datetime:
    """Read a date, of which the end is meant, or a date and time; in UTC where no zone is said."""
    try:
        if len(text) <= len("2026-03-03"):
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        detail = f"“as_of” is a date such as 2026-03-03, or a date and time such as 2026-03-03T12:00:00Z, not “{text}”."
        raise Invalid("as_of_unreadable", detail, more={"parameter": "as_of"}) from None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions to compare, with their reports, and what there is of references, the best first."""

    old: Version
    new: Version
    references: dict[int, str]


def to_compare(session: Session, name: str, first: str | None, second: str | None) -> Pair:
    """Give two versions by number or label; where none is named, the active one and the newest other."""
    model = get_model(session, name)
    old, new = (number_of(session, name, asked) if asked else None for asked in (first, second))
    newest_first = [version.number for version in reversed(model.versions)]
    if old is None and model.active_number != new:
        old = model.active_number
    if new is None:
        new = next((number for number in newest_first if number != old), None)
    if old is None:
        old = next((number for number in newest_first if number != new), None)
    if old is None or new is None:
        raise Conflict("nothing_to_compare", f"“{name}” has no two versions to compare; upload another one.")
    if old == new:
        raise Invalid("same_version", f"Version {old} would be compared with itself; name two different ones.")
    versions = get_version(session, model, old), get_version(session, model, new)
    for version in versions:
        session.refresh(version, ["report"])
    return Pair(*versions, _references(reversed(versions)))


def _references(versions: Iterable[Version]) -> dict[int, str]:
    """Give the references by the number of their version; one that several have only once."""
    found: dict[int, str] = {}
    for version in versions:
        if version.reference is not None and version.reference not in found.values():
            found[version.number] = version.reference
    return found


def previous_active(activations: list[Activation]) -> int | None:
    """Give the version that a rollback returns to.

    Rolling back twice goes two versions back: what was rolled away from is not a place to return to.
    """
    stack: list[int] = []
    for activation in activations:
        if activation.act == "rollback":
            stack.pop()
        else:
            stack.append(activation.to_number)
    return stack[-2] if len(stack) > 1 else None


def switch_plan_off(session: Session, actor: Actor, name: str, number: int, reason: str) -> bool:
    """Have scikit-learn itself compute a version from now on; tells whether its plan was in use until then."""
    version = get_version(session, get_model(session, name), number)
    if version.plan_off_at is not None:
        return False
    version.plan_off_at, version.plan_off_reason = now(), reason
    audit.record(session, actor, "models.plan_off", f"{name}/{number}", reason=reason)
    generation.advance(session)
    return True


def plans_off(session: Session) -> list[tuple[str, int, datetime, str]]:
    """Give the versions whose plan was switched off, each with when and why."""
    found = sa.select(Model.name, Version.number, Version.plan_off_at, Version.plan_off_reason).join(Version.model)
    off = found.where(Version.plan_off_at.is_not(None)).order_by(Model.name, Version.number)
    return [(name, number, at, reason or "") for name, number, at, reason in session.execute(off) if at]


def allow_plan(session: Session, actor: Actor, name: str, number: int, reason: str = "") -> None:
    """Let a version be computed by a plan again, where one is proven. `Conflict` when it is allowed already."""
    version = get_version(session, get_model(session, name), number)
    if version.plan_off_at is None:
        raise Conflict("plan_is_allowed", f"Version {number} of “{name}” may be computed by a plan already.")
    off = version.plan_off_reason
    version.plan_off_at = version.plan_off_reason = None
    audit.record(session, actor, "models.plan_on", f"{name}/{number}", reason=reason, was_off_because=off)
    generation.advance(session)


def was_active(session: Session, version: Version) -> bool:
    """Whether a version ever answered: from then on its signature is fixed."""
    once = sa.select(Activation.id).where(
        Activation.model_id == version.model_id, Activation.to_number == version.number
    )
    return session.scalar(once.limit(1)) is not None


def edit_signature(
    session: Session, actor: Actor, secret: bytes, version: Version, signature: dict[str, Any]
) -> Version:
    """Give a version another signature; one that was active stays, and a new version of its artifact is made."""
    model = _held_model(session, version.model.name)
    session.refresh(version)
    if was_active(session, version):
        return add_version(
            session,
            actor,
            secret,
            model.name,
            artifact=version.artifact,
            reference=version.reference,
            golden=version.golden,
            trained_with=version.trained_with,
            signature=signature,
            report=version.report,
            card=version.card,
        )
    before, after = ({each["name"]: each for each in one["features"]} for one in (version.signature, signature))
    changed = [name for name in after if after[name] != before.get(name)]
    version.signature = signature
    version.seal = _seal(secret, version)
    audit.record(
        session,
        actor,
        "models.edit_signature",
        f"{model.name}/{version.number}",
        before=[before[name] for name in changed],
        after=[after[name] for name in changed],
    )
    generation.advance(session)
    return version


# --- What lists show: a few columns, not the signatures and reports of all versions -------------------------


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model among others."""

    name: str
    active_number: int | None
    active_label: str | None
    versions: int
    newest: int | None
    last: Activation | None


@dataclass(frozen=True, slots=True)
class VersionLine:
    """A version among those of its model."""

    number: int
    label: str | None
    artifact: str
    created_at: datetime
    created_by: str
    file: str
    bytes: int
    library: str
    accuracy: float | None


def model_lines(session: Session) -> list[ModelLine]:
    """Every model by name, with what is active and what happened last."""
    counts = sa.select(Version.model_id, sa.func.count().label("count"), sa.func.max(Version.number).label("newest"))
    counted = counts.group_by(Version.model_id).subquery()
    lasts = sa.select(sa.func.max(Activation.id).label("id")).group_by(Activation.model_id).subquery()
    last = sa.select(Activation).join(lasts, lasts.c.id == Activation.id).subquery()
    activation = sa.orm.aliased(Activation, last)
    found = session.execute(
        sa.select(Model, Version.label, counted.c.count, counted.c.newest, activation)
        .outerjoin(counted, counted.c.model_id == Model.id)
        .outerjoin(Version, sa.and_(Version.model_id == Model.id, Version.number == Model.active_number))
        .outerjoin(activation, activation.model_id == Model.id)
        .order_by(Model.name)
    )
    return [
        ModelLine(model.name, model.active_number, label, count or 0, newest, done)
        for model, label, count, newest, done in found
    ]


def version_lines(session: Session, model: Model, *, below: int | None = None, most: int = 50) -> list[VersionLine]:
    """The versions of a model, the newest first; those with numbers `below` one."""
    found = session.execute(
        sa.select(
            Version.number,
            Version.label,
            Version.artifact,
            Version.created_at,
            Version.created_by,
            sa.func.coalesce(Version.report["file"]["name"].as_string(), ""),
            sa.func.coalesce(Version.report["file"]["bytes"].as_integer(), 0),
            sa.func.coalesce(Version.report["versions"]["scikit-learn"].as_string(), ""),
            Version.card["accuracy"].as_float(),
        )
        .where(Version.model_id == model.id, sa.true() if below is None else Version.number < below)
        .order_by(Version.number.desc())
        .limit(most)
    )
    return [VersionLine(*row) for row in found]


@dataclass(frozen=True, slots=True)
class WayBack:
    """A switch that can be taken back by one click."""

    model: str
    done: Activation
    to_number: int


def ways_back(session: Session, models: Sequence[str] = ()) -> list[WayBack]:
    """The switches of the last day that can be taken back; of some models, or of all."""
    lately = sa.select(Activation.model_id).where(Activation.at > now() - UNDO_LIFE)
    chosen = sa.select(Model).where(Model.id.in_(lately)).order_by(Model.name)
    found = []
    for model in session.scalars(chosen.where(Model.name.in_(models)) if models else chosen):
        done = history(session, model)
        number = previous_active(done)
        if number is not None and done[-1].act == "activate":
            found.append(WayBack(model.name, done[-1], number))
    return found


def catalog(session: Session) -> Catalog:
    """Give everything that can be served, as of this transaction."""
    number = generation.current(session)
    models = session.scalars(sa.select(Model).options(sa.orm.selectinload(Model.versions)))
    return Catalog(number, {model.name: _served_model(model) for model in models})


def _served_model(model: Model) -> ServedModel:
    versions = {version.number: _served_version(model, version) for version in model.versions}
    active = next((version for version in model.versions if version.number == model.active_number), None)
    accuracy = active.card.get("accuracy") if active else None
    return ServedModel(
        model.name, model.active_number, versions, accuracy if isinstance(accuracy, int | float) else None
    )


def _served_version(model: Model, version: Version) -> ServedVersion:
    shown = version.label or str(version.number)
    return ServedVersion(
        model.name,
        version.number,
        shown,
        version.artifact,
        version.seal,
        version.signature,
        version.golden,
        version.report_sha256,
        reference=version.reference,
        may_plan=version.plan_off_at is None,
    )


def describe_model(model: Model) -> dict[str, Any]:
    """Give the public form of a model."""
    return {
        "name": model.name,
        "active_version": model.active_number,
        "versions": len(model.versions),
        "created_at": model.created_at.isoformat(),
    }


def describe_version(version: Version) -> dict[str, Any]:
    """Give the public form of a version, without its signature and report."""
    return {
        "model": version.model.name,
        "version": version.number,
        "label": version.label,
        "state": "active" if version.model.active_number == version.number else "inactive",
        "sha256": version.artifact,
        "created_at": version.created_at.isoformat(),
        "created_by": version.created_by,
    }


def describe_as_of(session: Session, model: Model, moment: datetime) -> dict[str, Any] | None:
    """Give the public form of what was active at a moment; None where nothing was."""
    activation = active_at(session, model, moment)
    if activation is None:
        return None
    return {
        "at": moment.isoformat(),
        "active_version": activation.to_number,
        "label": get_version(session, model, activation.to_number).label,
        "since": activation.at.isoformat(),
        "actor": activation.actor,
        "reason": activation.reason,
    }


def describe_activation(activation: Activation) -> dict[str, Any]:
    """Give the public form of one entry of the history."""
    return {
        "act": activation.act,
        "version": activation.to_number,
        "from_version": activation.from_number,
        "at": activation.at.isoformat(),
        "actor": activation.actor,
        "reason": activation.reason,
    }

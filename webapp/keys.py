"""API keys: make, hash, scope, expire, revoke; and the ring of live keys that a request asks in memory."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import limits
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import audit, db, generation
from webapp.audit import Actor
from webapp.db import Base, Moment, now
from webapp.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated

SCOPES = ("predict", "batch", "feedback", "models:read", "models:write", "models:activate")
DEFAULT_LIFE = timedelta(days=365)

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_CHARACTERS = 8
_SECRET_CHARACTERS = 43  # 62^43 > 2^256
_CHECKSUM_CHARACTERS = 6
_FORM = re.compile(
    rf"mp_(live|test)_([0-9A-Za-z]{{{_ID_CHARACTERS}}})_[0-9A-Za-z]{{{_SECRET_CHARACTERS}}}[0-9A-Za-z]{{{_CHECKSUM_CHARACTERS}}}"
)
_ID = re.compile(rf"[0-9A-Za-z]{{{_ID_CHARACTERS}}}")
# What the pepper of key digests is derived for.
PEPPER = "api keys"
_REFUSED = "The key is missing, wrong, expired or revoked. Send it as X-API-Key or as Authorization: Bearer."


class ApiKey(Base):
    """A consumer's credential. The key itself is never stored, only its HMAC."""

    __tablename__ = "api_keys"
    __table_args__ = (sa.Index(None, "created_at", "id"),)

    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text)
    # Whom to ask about it.
    owner: Mapped[str] = mapped_column(sa.Text)
    digest: Mapped[str] = mapped_column(sa.Text, unique=True)
    test: Mapped[bool]
    scopes: Mapped[list[str]] = mapped_column(sa.JSON)
    # None: every model.
    models: Mapped[list[str] | None] = mapped_column(sa.JSON(none_as_null=True))
    rate_limit: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(Moment)
    created_by: Mapped[str] = mapped_column(sa.Text)
    expires_at: Mapped[datetime] = mapped_column(Moment)
    revoked_at: Mapped[datetime | None] = mapped_column(Moment)
    # Noted now and then, not with every request.
    used_at: Mapped[datetime | None] = mapped_column(Moment)
    used_from: Mapped[str | None] = mapped_column(sa.Text)

    @property
    def prefix(self) -> str:
        """The part of the key that is no secret."""
        return f"mp_{'test' if self.test else 'live'}_{self.id}"

    @property
    def title(self) -> str:
        """What tells this key from others, of the same name too."""
        return f"{self.name} ({self.id})"

    @property
    def state(self) -> str:
        """`live`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.expires_at > now() else "expired"


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CHECKSUM_CHARACTERS)


def _random(width: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(width))


def new_id() -> str:
    """Give an id for a new key."""
    return _random(_ID_CHARACTERS)


def digest(pepper: bytes, key: str) -> str:
    """Give what is stored of a key: useless without the pepper, which is not in the database."""
    return hmac.digest(pepper, key.encode(), hashlib.sha256).hex()


def well_formed(key: str) -> bool:
    """Whether the text is a key at all. A typo fails its checksum and needs no look-up."""
    return _FORM.fullmatch(key) is not None and _checksum(key[:-_CHECKSUM_CHARACTERS]) == key[-_CHECKSUM_CHARACTERS:]


def _check_terms(name: str, scopes: list[str], rate_limit: str | None, life: timedelta = DEFAULT_LIFE) -> None:
    if not name:
        raise Invalid("key_name_missing", "A key needs a name, such as the application that uses it.")
    if not scopes:
        raise Invalid("scope_missing", f"A key without a scope may do nothing. There are: {', '.join(SCOPES)}.")
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise Invalid("unknown_scope", f"No such scope: {', '.join(unknown)}. There are: {', '.join(SCOPES)}.")
    if life <= timedelta(0):
        raise Invalid("expiry_in_the_past", "A key must expire in the future.")
    try:
        several = len(limits.parse_many(rate_limit or "1/second")) > 1
    except ValueError:
        several = True
    if several:
        raise Invalid("rate_limit_unreadable", f"“{rate_limit}” is no limit; write one, like 1000/minute.")


def create(  # noqa: PLR0913 - the terms of a key, each by name
    session: Session,
    actor: Actor,
    pepper: bytes,
    name: str,
    *,
    owner: str = "",
    scopes: Iterable[str] = ("predict",),
    models: Iterable[str] = (),
    rate_limit: str | None = None,
    life: timedelta = DEFAULT_LIFE,
    test: bool = False,
    key_id: str | None = None,
) -> tuple[ApiKey, str]:
    """Make a key; gives its row and, this once, the key itself. No `models` means every model.

    `key_id` (of `new_id`) is for who may ask twice: the second time is a `Conflict`.
    """
    scopes = list(dict.fromkeys(scopes))
    _check_terms(name, scopes, rate_limit, life)
    key_id = new_id() if key_id is None else key_id
    body = f"mp_{'test' if test else 'live'}_{key_id}_{_random(_SECRET_CHARACTERS)}"
    key = body + _checksum(body)
    terms = {
        "id": key_id,
        "name": name,
        "owner": owner,
        "digest": digest(pepper, key),
        "test": test,
        "scopes": scopes,
        "models": sorted(set(models)) or None,
        "rate_limit": rate_limit,
        "created_at": now(),
        "created_by": actor.name,
        "expires_at": now() + life,
    }
    # Of two who ask at once, too, one is told so.
    made = db.insertion(session, ApiKey).values(terms).on_conflict_do_nothing().returning(ApiKey.id)
    if not _ID.fullmatch(key_id) or session.scalar(made) is None:
        raise Conflict(
            "key_already_made", f"The key {key_id} is made already, and was shown once; roll it if it was lost."
        )
    row = get_key(session, key_id)
    audit.record(session, actor, "keys.create", row.title, scopes=scopes)
    generation.advance(session)
    return row, key


def _held(session: Session, key_id: str) -> ApiKey:
    """Give a key's row that nobody else changes until this transaction ends."""
    row = get_key(session, key_id)
    session.refresh(row, with_for_update=True)
    return row


def get_key(session: Session, key_id: str) -> ApiKey:
    """Give a key's row by its id."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound("unknown_key", f"There is no key with the id {key_id}; `modelport keys list` shows them.")
    return row


def revoke(session: Session, actor: Actor, key_id: str) -> ApiKey:
    """End a key for good. Revoking it again changes nothing."""
    row = _held(session, key_id)
    if row.revoked_at is None:
        row.revoked_at = now()
        audit.record(session, actor, "keys.revoke", row.title)
        generation.advance(session)
    return row


def edit(  # noqa: PLR0913 - the terms of a key, each by name
    session: Session,
    actor: Actor,
    key_id: str,
    *,
    name: str,
    owner: str,
    scopes: Iterable[str],
    models: Iterable[str],
    rate_limit: str | None,
) -> ApiKey:
    """Change what a live key may do; it holds from the next request on."""
    row = _live(session, key_id)
    terms = {
        "name": name,
        "owner": owner,
        "scopes": list(dict.fromkeys(scopes)),
        "models": sorted(set(models)) or None,
        "rate_limit": rate_limit,
    }
    _check_terms(name, terms["scopes"], rate_limit)  # type: ignore[arg-type] # a list of scopes
    before = {term: getattr(row, term) for term, value in terms.items() if getattr(row, term) != value}
    for term in before:
        setattr(row, term, terms[term])
    if before:
        after = {term: terms[term] for term in before}
        audit.record(session, actor, "keys.edit", row.title, before=before, after=after)
        generation.advance(session)
    return row


def _live(session: Session, key_id: str) -> ApiKey:
    row = _held(session, key_id)
    if row.state != "live":
        raise Conflict("key_not_live", f"The key {row.prefix} is {row.state}; make a new one.")
    return row


def roll(session: Session, actor: Actor, pepper: bytes, key_id: str, overlap: timedelta) -> tuple[ApiKey, str]:
    """Make a successor with the same terms and a new life; the old key works on for `overlap`."""
    old = _live(session, key_id)
    row, key = create(
        session,
        actor,
        pepper,
        old.name,
        owner=old.owner,
        scopes=old.scopes,
        models=old.models or (),
        rate_limit=old.rate_limit,
        life=old.expires_at - old.created_at,
        test=old.test,
    )
    old.expires_at = min(old.expires_at, now() + overlap)
    audit.record(session, actor, "keys.roll", old.title, successor=row.id, until=old.expires_at.isoformat())
    return row, key


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the keys that were looked for."""

    rows: list[ApiKey]
    more: bool


def search(session: Session, text: str, state: str, page: int, size: int = 50) -> Page:
    """Find keys by name, owner, id or prefix, the newest first; `state` is live, expired, revoked or empty."""
    moment = now()
    states = {
        "live": sa.and_(ApiKey.revoked_at.is_(None), ApiKey.expires_at > moment),
        "expired": sa.and_(ApiKey.revoked_at.is_(None), ApiKey.expires_at <= moment),
        "revoked": ApiKey.revoked_at.is_not(None),
    }
    wanted = sa.select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).offset(page * size).limit(size + 1)
    if state in states:
        wanted = wanted.where(states[state])
    if text:
        # Whole keys are pasted, too: the id is all that is looked at.
        prefixed = re.match(r"mp_(?:live|test)_([0-9A-Za-z]{0,8})", text)
        columns = (ApiKey.name, ApiKey.owner, ApiKey.id)
        hits = [each.icontains(text, autoescape=True) for each in columns]
        wanted = wanted.where(ApiKey.id.startswith(prefixed[1], autoescape=True) if prefixed else sa.or_(*hits))
    rows = list(session.scalars(wanted))
    return Page(rows[:size], len(rows) > size)


def count_live(session: Session) -> int:
    """How many keys can be used now."""
    live = sa.select(sa.func.count()).where(ApiKey.revoked_at.is_(None), ApiKey.expires_at > now())
    return session.scalars(live).one()


def expiring(session: Session, within: timedelta, most: int = 20) -> list[ApiKey]:
    """Keys that end soon, the next first."""
    soon = sa.and_(ApiKey.revoked_at.is_(None), ApiKey.expires_at > now(), ApiKey.expires_at < now() + within)
    return list(session.scalars(sa.select(ApiKey).where(soon).order_by(ApiKey.expires_at).limit(most)))


def names(session: Session, key_ids: Iterable[str]) -> dict[str, str]:
    """Give the names of keys by id; of those that exist."""
    found = session.execute(sa.select(ApiKey.id, ApiKey.name).where(ApiKey.id.in_(list(key_ids))))
    return {row.id: row.name for row in found}


def named(session: Session, text: str) -> list[str]:
    """Give the ids of the keys that a person means: by id, by prefix or by name."""
    prefixed = re.match(r"mp_(?:live|test)_([0-9A-Za-z]{8})", text)
    key_id = prefixed[1] if prefixed else text
    meant = sa.or_(ApiKey.id == key_id, ApiKey.name == text)
    return list(session.scalars(sa.select(ApiKey.id).where(meant).limit(100)))


def note_uses(session: Session, uses: Mapping[str, Use]) -> None:
    """Note when and from where keys were used last."""
    for key_id, use in uses.items():
        moment = datetime.fromtimestamp(use.at, UTC)
        later = sa.or_(ApiKey.used_at.is_(None), ApiKey.used_at < moment)
        values = {"used_at": moment, "used_from": use.address}
        session.execute(sa.update(ApiKey).where(ApiKey.id == key_id, later).values(values))


def all_keys(session: Session) -> list[ApiKey]:
    """Every key that was ever made, the newest first."""
    return list(session.scalars(sa.select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)))


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A live key as a request sees it."""

    id: str
    test: bool
    scopes: frozenset[str]
    models: frozenset[str] | None
    limit: limits.RateLimitItem
    expires_at: float

    def require_scope(self, scope: str) -> None:
        """Raise `Forbidden` when the key may not do this kind of thing."""
        if scope not in self.scopes:
            raise Forbidden("scope_missing", f"This key has no scope “{scope}”.")

    def require_model(self, model: str) -> None:
        """Raise `Forbidden` when the key may not use this model; says nothing of whether it exists."""
        if self.models is not None and model not in self.models:
            raise Forbidden("model_not_allowed", f"This key may not use the model “{model}”.")


def live_keys(session: Session, default_limit: str) -> dict[str, KeyRecord]:
    """Every key that can still be used, by digest. `default_limit` is for keys without one of their own."""
    found = session.scalars(sa.select(ApiKey).where(ApiKey.revoked_at.is_(None), ApiKey.expires_at > now()))
    return {row.digest: _record(row, default_limit) for row in found}


def _record(row: ApiKey, default_limit: str) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        test=row.test,
        scopes=frozenset(row.scopes),
        models=None if row.models is None else frozenset(row.models),
        limit=limits.parse(row.rate_limit or default_limit),
        expires_at=row.expires_at.timestamp(),
    )


class Use(NamedTuple):
    """The last use of a key that a process saw: seconds since 1970, and the address."""

    at: float
    address: str


@dataclass(slots=True)
class KeyRing:
    """The live keys of one process. The snapshot is replaced as a whole, never changed."""

    pepper: bytes
    snapshot: Mapping[str, KeyRecord] = field(default_factory=dict)
    # By id, since they were taken last.
    _uses: dict[str, Use] = field(default_factory=dict)

    def note_use(self, record: KeyRecord, address: str) -> None:
        """Remember that a key was used now, until the uses are taken to the database."""
        self._uses[record.id] = Use(time.time(), address)

    def take_uses(self) -> dict[str, Use]:
        """Give the uses since the last time."""
        taken, self._uses = self._uses, {}
        return taken

    def find(self, key: str) -> KeyRecord:
        """Give the record of a key, or raise `Unauthenticated`, the same for every reason."""
        if well_formed(key):
            record = self.snapshot.get(digest(self.pepper, key))
            if record is not None and record.expires_at > time.time():
                return record
        raise Unauthenticated("key_refused", _REFUSED)


def describe(row: ApiKey) -> dict[str, Any]:
    """Give what may be shown of a key."""
    return {
        "id": row.id,
        "name": row.name,
        "owner": row.owner,
        "prefix": row.prefix,
        "state": row.state,
        "scopes": row.scopes,
        "models": row.models,
        "rate_limit": row.rate_limit,
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by,
        "expires_at": row.expires_at.isoformat(),
        "revoked_at": row.revoked_at.isoformat() if row.revoked_at else None,
        "used_at": row.used_at.isoformat() if row.used_at else None,
    }

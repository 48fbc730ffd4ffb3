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
from datetime import datetime, timedelta
from typing import Any

import limits
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import audit, generation
from webapp.db import Base, Moment, now
from webapp.errors import Forbidden, Invalid, NotFound, Unauthenticated

SCOPES = ("predict", "batch", "feedback", "models:read", "models:write", "models:activate")
DEFAULT_LIFE = timedelta(days=365)

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_CHARACTERS = 8
_SECRET_CHARACTERS = 43  # 62^43 > 2^256
_CHECKSUM_CHARACTERS = 6
_FORM = re.compile(
    rf"mp_(live|test)_([0-9A-Za-z]{{{_ID_CHARACTERS}}})_[0-9A-Za-z]{{{_SECRET_CHARACTERS}}}[0-9A-Za-z]{{{_CHECKSUM_CHARACTERS}}}"
)
# What the pepper of key digests is derived for.
PEPPER = "api keys"
_REFUSED = "The key is missing, wrong, expired or revoked. Send it as X-API-Key or as Authorization: Bearer."


class ApiKey(Base):
    """A consumer's credential. The key itself is never stored, only its HMAC."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text)
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


def digest(pepper: bytes, key: str) -> str:
    """Give what is stored of a key: useless without the pepper, which is not in the database."""
    return hmac.digest(pepper, key.encode(), hashlib.sha256).hex()


def well_formed(key: str) -> bool:
    """Whether the text is a key at all. A typo fails its checksum and needs no look-up."""
    return _FORM.fullmatch(key) is not None and _checksum(key[:-_CHECKSUM_CHARACTERS]) == key[-_CHECKSUM_CHARACTERS:]


def _check_terms(scopes: Iterable[str], rate_limit: str | None, life: timedelta) -> None:
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
    actor: str,
    pepper: bytes,
    name: str,
    *,
    scopes: Iterable[str] = ("predict",),
    models: Iterable[str] = (),
    rate_limit: str | None = None,
    life: timedelta = DEFAULT_LIFE,
    test: bool = False,
) -> tuple[ApiKey, str]:
    """Make a key; gives its row and, this once, the key itself. No `models` means every model."""
    scopes = list(dict.fromkeys(scopes))
    _check_terms(scopes, rate_limit, life)
    key_id = _random(_ID_CHARACTERS)
    body = f"mp_{'test' if test else 'live'}_{key_id}_{_random(_SECRET_CHARACTERS)}"
    key = body + _checksum(body)
    row = ApiKey(
        id=key_id,
        name=name,
        digest=digest(pepper, key),
        test=test,
        scopes=scopes,
        models=sorted(set(models)) or None,
        rate_limit=rate_limit,
        created_at=now(),
        created_by=actor,
        expires_at=now() + life,
        revoked_at=None,
    )
    session.add(row)
    audit.record(session, actor, "keys.create", key_id, name=name, scopes=scopes)
    generation.advance(session)
    return row, key


def get_key(session: Session, key_id: str) -> ApiKey:
    """Give a key's row by its id."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound("unknown_key", f"There is no key with the id {key_id}; `modelport keys list` shows them.")
    return row


def revoke(session: Session, actor: str, key_id: str) -> ApiKey:
    """End a key for good. Revoking it again changes nothing."""
    row = get_key(session, key_id)
    if row.revoked_at is None:
        row.revoked_at = now()
        audit.record(session, actor, "keys.revoke", key_id, name=row.name)
        generation.advance(session)
    return row


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


@dataclass(slots=True)
class KeyRing:
    """The live keys of one process. The snapshot is replaced as a whole, never changed."""

    pepper: bytes
    snapshot: Mapping[str, KeyRecord] = field(default_factory=dict)

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
        "prefix": f"mp_{'test' if row.test else 'live'}_{row.id}",
        "scopes": row.scopes,
        "models": row.models,
        "rate_limit": row.rate_limit,
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by,
        "expires_at": row.expires_at.isoformat(),
        "revoked_at": row.revoked_at.isoformat() if row.revoked_at else None,
    }

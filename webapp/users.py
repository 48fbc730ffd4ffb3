"""People who sign in to the admin UI: roles, one-time sign-in links, and sessions that end when they are told to."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import audit, db
from webapp.audit import Actor
from webapp.db import Base, Moment, now
from webapp.errors import Conflict, Invalid, NotFound, Unauthenticated

# What each may includes what those before it may.
ROLES = ("viewer", "operator", "admin")
LINK_LIFE = timedelta(minutes=15)
IDLE = timedelta(minutes=30)
LONGEST = timedelta(hours=12)
# A session that was seen so lately is not noted again: reading pages need not write.
TOUCH_AFTER = timedelta(minutes=1)
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,62}")
_MOST_AGENT_CHARACTERS = 200


class User(Base):
    """A person. Without a password one signs in by a link."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text, unique=True)
    role: Mapped[str] = mapped_column(sa.Text)
    password: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(Moment)
    created_by: Mapped[str] = mapped_column(sa.Text)
    signed_in_at: Mapped[datetime | None] = mapped_column(Moment)
    disabled_at: Mapped[datetime | None] = mapped_column(Moment)
    # Of the second factor: what its secret is made of, the last time step that was used, digests of recovery codes.
    second_factor: Mapped[str | None] = mapped_column(sa.Text)
    last_step: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    recovery: Mapped[list[str]] = mapped_column(sa.JSON, default=list)


class SignInLink(Base):
    """A way in that works once. The token itself is not stored."""

    __tablename__ = "sign_in_links"

    digest: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    expires_at: Mapped[datetime] = mapped_column(Moment)


class SignIn(Base):
    """A session: it lasts as long as its row. The id in the cookie is not stored."""

    __tablename__ = "sign_ins"

    digest: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    began_at: Mapped[datetime] = mapped_column(Moment)
    seen_at: Mapped[datetime] = mapped_column(Moment)
    address: Mapped[str] = mapped_column(sa.Text)
    agent: Mapped[str] = mapped_column(sa.Text)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who is signed in, as a request sees it."""

    user_id: int
    name: str
    role: str
    has_password: bool
    has_second_factor: bool
    digest: str
    # Not noted for a while: the door does it.
    stale: bool

    def may(self, role: str) -> bool:
        """Whether this person has the role, or one that includes it."""
        return includes(self.role, role)


def includes(role: str, other: str) -> bool:
    """Whether a role may do what another may."""
    return ROLES.index(role) >= ROLES.index(other)


def _digest(token: str) -> str:
    # No pepper, no slow hash: 256 random bits cannot be guessed.
    return hashlib.sha256(token.encode()).hexdigest()


# --- People -----------------------------------------------------------------------------------------------


def create(session: Session, actor: Actor, name: str, role: str) -> User:
    """Make a user, who signs in by a link first."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            "user_name_not_allowed",
            f"“{name}” cannot be a user's name: use up to 63 of a-z, 0-9 and . _ @ + -, such as mara@example.com.",
        )
    _check_role(role)
    terms = {"name": name, "role": role, "created_at": now(), "created_by": actor.name, "last_step": 0, "recovery": []}
    # Of two who make the same one at once, one is told so.
    made = db.insertion(session, User).values(terms).on_conflict_do_nothing().returning(User.id)
    if session.scalar(made) is None:
        raise Conflict("user_exists", f"There is a user “{name}” already.")
    user = get_user(session, name)
    audit.record(session, actor, "users.create", name, role=role)
    return user


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise Invalid("unknown_role", f"There is no role “{role}”; there are: {', '.join(ROLES)}.")


def all_users(session: Session) -> list[User]:
    """Every user by name."""
    return list(session.scalars(sa.select(User).order_by(User.name)))


def find_user(session: Session, name: str) -> User | None:
    """Give a user by name, if there is one."""
    return session.scalar(sa.select(User).where(User.name == name))


def get_user(session: Session, name: str) -> User:
    """Give a user by name."""
    user = find_user(session, name)
    if user is None:
        raise NotFound("unknown_user", f"There is no user “{name}”.")
    return user


def set_role(session: Session, actor: Actor, name: str, role: str) -> User:
    """Give a user another role; it holds from the next request on."""
    _check_role(role)
    user = get_user(session, name)
    if role != user.role:
        _keep_an_admin(session, user)
        audit.record(session, actor, "users.role", name, before=user.role, after=role)
        user.role = role
    return user


def disable(session: Session, actor: Actor, name: str) -> User:
    """Keep a user out from now on: sessions and links end at once."""
    user = get_user(session, name)
    if user.disabled_at is None:
        _keep_an_admin(session, user)
        user.disabled_at = now()
        end_all(session, user)
        audit.record(session, actor, "users.disable", name)
    return user


def enable(session: Session, actor: Actor, name: str) -> User:
    """Let a disabled user in again."""
    user = get_user(session, name)
    if user.disabled_at is not None:
        user.disabled_at = None
        audit.record(session, actor, "users.enable", name)
    return user


def _keep_an_admin(session: Session, leaving: User) -> None:
    # Locked: of two admins who leave at once, the second waits, and then sees that the first is gone.
    admins = sa.select(User.id).where(User.role == "admin", User.disabled_at.is_(None)).order_by(User.id)
    if leaving.role == "admin" and set(session.scalars(admins.with_for_update())) <= {leaving.id}:
        raise Conflict("last_admin", f"“{leaving.name}” is the last admin; make another user an admin first.")


def sign_out(session: Session, actor: Actor, name: str) -> None:
    """End every session of a user, and every link."""
    end_all(session, get_user(session, name))
    audit.record(session, actor, "users.sign_out", name)


def set_password(session: Session, actor: Actor, user: User, stored: str) -> None:
    """Store a password's hash (`passwords.hashed`); the user's other sessions and links are the door's to end."""
    user.password = stored
    audit.record(session, actor, "users.password", user.name)


def reset_password(session: Session, actor: Actor, name: str) -> str:
    """Forget a user's password and second factor, end the sessions, and give the token of a new sign-in link."""
    user = get_user(session, name)
    user.password = user.second_factor = None
    user.recovery = []
    end_all(session, user)
    audit.record(session, actor, "users.reset_password", name)
    return make_link(session, user)


# --- The second factor --------------------------------------------------------------------------------------


def set_second_factor(session: Session, actor: Actor, user: User, nonce: str, step: int, recovery: list[str]) -> None:
    """Ask this user for codes from now on; `step` is that of the code which proved it, `recovery` has digests."""
    user.second_factor, user.last_step, user.recovery = nonce, step, recovery
    audit.record(session, actor, "users.second_factor", user.name, after="on")


def drop_second_factor(session: Session, actor: Actor, user: User) -> None:
    """Ask this user for no codes any more."""
    user.second_factor, user.recovery = None, []
    audit.record(session, actor, "users.second_factor", user.name, after="off")


def use_step(session: Session, user: User, step: int) -> bool:
    """Use up the code of a time step; of two who do it at once one succeeds."""
    unused = sa.update(User).where(User.id == user.id, User.last_step < step).values(last_step=step)
    return bool(session.execute(unused).rowcount == 1)  # type: ignore[attr-defined] # an UPDATE's result has it


def use_recovery(session: Session, actor: Actor, user: User, digest: str) -> bool:
    """Use up a recovery code; of two who do it at once one succeeds."""
    session.refresh(user, with_for_update=True)
    if digest not in user.recovery:
        return False
    user.recovery = [each for each in user.recovery if each != digest]
    audit.record(session, actor, "users.recovery_code", user.name, left=len(user.recovery))
    return True


# --- Links ------------------------------------------------------------------------------------------------


def make_link(session: Session, user: User) -> str:
    """Give the token of a new sign-in link, in place of earlier ones. It is shown once and works once."""
    if user.disabled_at is not None:
        raise Conflict("user_disabled", f"“{user.name}” is disabled; enable the user first.")
    session.execute(sa.delete(SignInLink).where(SignInLink.user_id == user.id))
    token = secrets.token_urlsafe(32)
    session.add(SignInLink(digest=_digest(token), user_id=user.id, expires_at=now() + LINK_LIFE))
    return token


def link_user(session: Session, token: str) -> User:
    """Give whom a link lets in; it is not used up by looking."""
    found = session.execute(
        sa.select(User)
        .join(SignInLink, SignInLink.user_id == User.id)
        .where(SignInLink.digest == _digest(token), SignInLink.expires_at > now(), User.disabled_at.is_(None))
    ).scalar()
    if found is None:
        detail = (
            "This sign-in link was used, is older than 15 minutes, or was replaced by a newer one."
            " Get a new one: `modelport users reset-password NAME`, or from an admin under Users."
        )
        raise NotFound("sign_in_link_dead", detail)
    return found


def use_link(session: Session, token: str) -> User:
    """Use up a link; of two who do it at once one is let in."""
    user = link_user(session, token)
    used = session.execute(sa.delete(SignInLink).where(SignInLink.digest == _digest(token)))
    if used.rowcount != 1:  # type: ignore[attr-defined] # a DELETE's result has it
        raise NotFound("sign_in_link_dead", "This sign-in link has just been used.")
    return user


# --- Sessions ---------------------------------------------------------------------------------------------


def begin(session: Session, actor: Actor, user: User, agent: str, way: str) -> str:
    """Begin a session of `user`; gives the id that goes into the cookie. `way` is link or password."""
    if user.disabled_at is not None:
        raise Unauthenticated("sign_in_refused", "This user cannot sign in.")
    token = secrets.token_urlsafe(32)
    moment = now()
    user.signed_in_at = moment
    session.execute(sa.delete(SignIn).where(_ended(moment)))
    session.add(
        SignIn(
            digest=_digest(token),
            user_id=user.id,
            began_at=moment,
            seen_at=moment,
            address=actor.address,
            agent=agent[:_MOST_AGENT_CHARACTERS],
        )
    )
    audit.record(session, actor, "users.sign_in", user.name, way=way)
    return token


def _ended(moment: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(SignIn.seen_at < moment - IDLE, SignIn.began_at < moment - LONGEST)


def signed_in(session: Session, token: str) -> SignedIn | None:
    """Give who holds this session, if it lasts and its user may still come in."""
    moment = now()
    found = session.execute(
        sa.select(SignIn, User)
        .join(User, User.id == SignIn.user_id)
        .where(SignIn.digest == _digest(token), sa.not_(_ended(moment)), User.disabled_at.is_(None))
    ).first()
    if found is None:
        return None
    held, user = found
    stale = held.seen_at < moment - TOUCH_AFTER
    return SignedIn(
        user_id=user.id,
        name=user.name,
        role=user.role,
        has_password=user.password is not None,
        has_second_factor=user.second_factor is not None,
        digest=held.digest,
        stale=stale,
    )


def touch(session: Session, digest: str) -> None:
    """Note that a session is in use."""
    session.execute(sa.update(SignIn).where(SignIn.digest == digest).values(seen_at=now()))


def sessions(session: Session, user: User) -> list[SignIn]:
    """A user's sessions that last, the last used first."""
    lasting = sa.select(SignIn).where(SignIn.user_id == user.id, sa.not_(_ended(now())))
    return list(session.scalars(lasting.order_by(SignIn.seen_at.desc())))


def end(session: Session, digest: str) -> None:
    """End a session: a copy of its cookie is worth nothing from now on."""
    session.execute(sa.delete(SignIn).where(SignIn.digest == digest))


def end_all(session: Session, user: User, but: str = "") -> None:
    """End every session of a user (but the one with the digest `but`) and every link."""
    session.execute(sa.delete(SignIn).where(SignIn.user_id == user.id, SignIn.digest != but))
    session.execute(sa.delete(SignInLink).where(SignInLink.user_id == user.id))


def describe(user: User) -> dict[str, Any]:
    """Give what may be shown of a user."""
    return {
        "name": user.name,
        "role": user.role,
        "has_password": user.password is not None,
        "has_second_factor": user.second_factor is not None,
        "created_at": user.created_at.isoformat(),
        "created_by": user.created_by,
        "signed_in_at": user.signed_in_at.isoformat() if user.signed_in_at else None,
        "disabled_at": user.disabled_at.isoformat() if user.disabled_at else None,
    }

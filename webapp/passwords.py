"""Passwords: hashed so that guessing is slow, and refused when they are easy to guess."""

from __future__ import annotations

import threading

import argon2
from argon2.exceptions import VerificationError
from zxcvbn import zxcvbn

from webapp.errors import Invalid

LEAST_CHARACTERS = 12
# Hashing takes time in proportion to nothing longer than this.
MOST_CHARACTERS = 128
# Of 0 to 4, as zxcvbn counts: 3 withstands 10^8 guesses.
LEAST_SCORE = 3
_HASHER = argon2.PasswordHasher()
# A hash takes 64 MiB and a core: two at once leave the machine to the predictions.
_HASHING = threading.BoundedSemaphore(2)
# What a password is compared with when there is none: an unknown user takes as long as a wrong password.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$bW9kZWxwb3J0LW5vYm9keQ$2tCFzXlBkXN1l5b2M5eYJ1pT1v1vC0o9V3o4h0z6q2E"


def check(password: str, about: tuple[str, ...] = ()) -> None:
    """Raise `Invalid` unless the password can be used. `about` are words that are easy to guess here."""
    if not LEAST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        raise Invalid(
            "password_length",
            f"A password has {LEAST_CHARACTERS} to {MOST_CHARACTERS} characters; four or five words are a good one.",
        )
    judged = zxcvbn(password, user_inputs=["modelport", *about], max_length=MOST_CHARACTERS)
    if judged["score"] < LEAST_SCORE:
        hints = [judged["feedback"]["warning"], *judged["feedback"]["suggestions"]]
        raise Invalid("password_guessable", " ".join(["This password is easy to guess.", *filter(None, hints)]))


def hashed(password: str) -> str:
    """Give what is stored of a password (argon2id, RFC 9106)."""
    with _HASHING:
        return _HASHER.hash(password)


def fits(stored: str | None, password: str) -> bool:
    """Whether the password is the one; takes the same time when there is none."""
    with _HASHING:
        try:
            hashes_to = _HASHER.verify(stored or _NOBODY, password[:MOST_CHARACTERS])
        except VerificationError:
            return False
    return hashes_to and stored is not None and len(password) <= MOST_CHARACTERS

"""Passwords: what is stored is slow to guess, and what is easy to guess is refused with a hint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import argon2
import pytest
from argon2.exceptions import VerifyMismatchError

from webapp import passwords
from webapp.errors import Invalid

GOOD = "brisk otter paints seven doors"
# The least that OWASP recommends: memory in KiB, passes over it.
LEAST_MEMORY, LEAST_PASSES = 19_456, 2


class Watched(argon2.PasswordHasher):
    """A hasher that counts how many hashes are under way at once. Each waits for another one to be."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=1024, parallelism=1)
        self.under_way = self.most = 0
        self.counting = threading.Lock()
        self.pair = threading.Barrier(2, timeout=60)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._count(1)
        try:
            self.pair.wait()
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with self.counting:
            self.under_way += more
            self.most = max(self.most, self.under_way)

    def hash(self, *given: Any, **more: Any) -> str:
        with self._watched():
            return super().hash(*given, **more)

    def verify(self, *given: Any) -> Literal[True]:
        with self._watched():
            return super().verify(*given)


def refusal(password: str, *about: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        passwords.check(password, about)
    return caught.value


# --- Storing ------------------------------------------------------------------------------------------------


def test_what_is_stored_is_argon2id_with_a_salt_of_its_own() -> None:
    first, second = passwords.hashed(GOOD), passwords.hashed(GOOD)
    facts = argon2.extract_parameters(first)
    assert facts.type is argon2.low_level.Type.ID
    assert (facts.memory_cost >= LEAST_MEMORY, facts.time_cost >= LEAST_PASSES) == (True, True)
    assert (facts.salt_len, facts.hash_len) == (16, 32)
    assert first != second
    assert GOOD not in first


def test_only_the_password_itself_fits() -> None:
    stored = passwords.hashed(GOOD)
    assert passwords.fits(stored, GOOD)
    for wrong in ("", GOOD.upper(), f"{GOOD} ", f" {GOOD}", GOOD[:-1], "x" * 100_000, "\0"):
        assert not passwords.fits(stored, wrong), wrong[:40]


def test_what_is_longer_than_any_password_fits_none() -> None:
    longest = (GOOD * 5)[: passwords.MOST_CHARACTERS]
    stored = passwords.hashed(longest)
    assert passwords.fits(stored, longest)
    assert not passwords.fits(stored, f"{longest}!")


@pytest.mark.parametrize("typed", ["", GOOD, "x" * 1000])
def test_nothing_fits_where_there_is_no_password(typed: str) -> None:
    assert not passwords.fits(None, typed)


def test_not_even_the_password_of_nobody_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_NOBODY", passwords.hashed(GOOD))
    assert not passwords.fits(None, GOOD)


def test_nobody_is_hashed_like_anybody() -> None:
    """A stored text that cannot be read would be refused at once, and tell that there is no such user."""
    own = argon2.extract_parameters(passwords.hashed(GOOD))
    assert argon2.extract_parameters(passwords._NOBODY) == own
    with pytest.raises(VerifyMismatchError):
        argon2.PasswordHasher().verify(passwords._NOBODY, GOOD)


def test_two_are_hashed_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, watched = passwords.hashed(GOOD), Watched()
    monkeypatch.setattr(passwords, "_HASHER", watched)
    with ThreadPoolExecutor(12) as pool:
        fitting = [pool.submit(passwords.fits, stored if number % 2 else None, GOOD) for number in range(8)]
        hashing = [pool.submit(passwords.hashed, GOOD) for _ in range(4)]
    assert {each.exception() for each in fitting} == {None}
    assert len({each.result() for each in hashing}) == 4
    assert watched.most == 2


# --- Choosing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, passwords.LEAST_CHARACTERS - 1, passwords.MOST_CHARACTERS + 1, 100_000])
def test_too_short_and_too_long_is_refused_with_the_bounds(length: int) -> None:
    refused = refusal((GOOD * (length // len(GOOD) + 1))[:length])
    assert refused.code == "password_length"
    assert "12 to 128" in refused.detail
    assert "words" in refused.detail


@pytest.mark.parametrize("length", [passwords.LEAST_CHARACTERS, passwords.MOST_CHARACTERS])
def test_the_bounds_themselves_are_taken(length: int) -> None:
    passwords.check("".join(chr(33 + (position * 37 + position**2 * 11) % 94) for position in range(length)))


@pytest.mark.parametrize("words", [GOOD, "correct horse battery staple", "Ällgäuer Kühe blöken übermütig"])
def test_a_few_words_are_taken(words: str) -> None:
    passwords.check(words)


COMMON = {
    "password1234": "common",
    "qwertyuiop12": "common",
    "aaaaaaaaaaaa": "Repeats",
    "abcdefghijkl": "Sequences",
    "123456789012": "",
    "letmeinletmein": "",
    "P@ssw0rdP@ssw0rd": "",
    "modelportmodelport": "",
    "            ": "",
}


@pytest.mark.parametrize(("password", "why"), COMMON.items(), ids=COMMON)
def test_what_is_guessed_first_is_refused_with_a_hint(password: str, why: str) -> None:
    refused = refusal(password)
    assert refused.code == "password_guessable"
    assert why in refused.detail
    assert len(refused.detail) > len("This password is easy to guess."), "it says what to do instead"
    assert password not in refused.detail


def test_ones_own_name_is_easy_to_guess_and_another_users_is_not_known() -> None:
    named = "kwxlvqzj@bfgmrtpd"
    assert refusal(named, named).code == "password_guessable"
    passwords.check(named, ("mara",))


def test_judging_a_long_password_ends() -> None:
    for password in ("a" * 128, "ab" * 64, "aA1!" * 32, "password" * 16, "1234567890" * 12):
        refusal(password)

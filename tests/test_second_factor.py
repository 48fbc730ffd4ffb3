"""Tests of one-time codes: the present one is right, once; what is stored gives no codes."""

from __future__ import annotations

import time

import pyotp
import pytest

from webapp import second_factor

PEPPER, NONCE = b"p" * 32, "n" * 32
SECRET = second_factor.secret_of(PEPPER, NONCE)
NOW = 1_772_366_410


@pytest.fixture(autouse=True)
def _present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def code(seconds_from_now: int = 0) -> str:
    return pyotp.TOTP(SECRET).at(NOW + seconds_from_now)


@pytest.mark.parametrize("seconds_from_now", [-30, 0, 30])
def test_the_codes_around_the_present_are_right(seconds_from_now: int) -> None:
    step = second_factor.step_of(SECRET, code(seconds_from_now), after=0)
    assert step == (NOW + seconds_from_now) // 30


@pytest.mark.parametrize("seconds_from_now", [-90, -61, 61, 90, 3600])
def test_other_codes_are_wrong(seconds_from_now: int) -> None:
    assert second_factor.step_of(SECRET, code(seconds_from_now), after=0) is None


@pytest.mark.parametrize("typed", ["", "0", "abcdef", "１２３４５６", "000000000"])  # noqa: RUF001 - full-width digits
def test_what_is_no_code_is_wrong(typed: str) -> None:
    assert second_factor.step_of(SECRET, typed, after=0) is None


def test_a_code_and_those_before_it_are_used_up_together() -> None:
    step = second_factor.step_of(SECRET, code(), after=0)
    assert step is not None
    assert second_factor.step_of(SECRET, code(), after=step) is None
    assert second_factor.step_of(SECRET, code(-30), after=step) is None
    assert second_factor.step_of(SECRET, code(30), after=step) == step + 1


def test_without_the_pepper_what_is_stored_gives_another_secret() -> None:
    assert second_factor.secret_of(b"q" * 32, NONCE) != SECRET
    assert second_factor.digest(b"q" * 32, "abcde-fghjk") != second_factor.digest(PEPPER, "abcde-fghjk")


def test_an_app_reads_the_address_of_a_secret() -> None:
    read = pyotp.parse_uri(second_factor.address(SECRET, "mara"))
    assert isinstance(read, pyotp.TOTP)
    assert (read.secret, read.name, read.issuer) == (SECRET, "mara", "Modelport")


def test_recovery_codes_differ_and_are_read_as_people_type_them() -> None:
    codes = second_factor.new_recovery_codes()
    assert len(set(codes)) == second_factor.RECOVERY_CODES
    assert second_factor.digest(PEPPER, f" {codes[0].upper()} ") == second_factor.digest(PEPPER, codes[0])


def test_the_picture_is_drawn_by_attributes_alone() -> None:
    drawn = second_factor.picture(second_factor.address(SECRET, "mara"))
    assert drawn.startswith("<svg")
    assert "style" not in drawn
    assert "<script" not in drawn

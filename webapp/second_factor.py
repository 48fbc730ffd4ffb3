"""One-time codes as a second factor (RFC 6238), and recovery codes for whoever lost the device."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time

import pyotp
import segno

# What the pepper of second factors is derived for.
PEPPER = "second factors"
ISSUER = "Modelport"
STEP_SECONDS = 30
# A code of the step before or after is taken, too: clocks differ, and typing takes a while.
DRIFT_STEPS = 1
RECOVERY_CODES = 8
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike


def new_nonce() -> str:
    """Give what is stored of a new second factor."""
    return secrets.token_hex(16)


def secret_of(pepper: bytes, nonce: str) -> str:
    """Give the secret of a second factor as authenticator apps take it.

    It is made of what is stored and of the pepper, which is not in the database: a copy of that gives no codes.
    """
    return base64.b32encode(hmac.digest(pepper, nonce.encode(), hashlib.sha256)[:20]).decode()


def address(secret: str, name: str) -> str:
    """Give the `otpauth:` address of a secret."""
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=ISSUER)


def picture(text: str) -> str:
    """Give a QR code as inline SVG, drawn by attributes alone."""
    return segno.make(text, error="m").svg_inline(scale=4, border=2, dark="#000", light="#fff", svgclass="qr")


def step_of(secret: str, code: str, after: int) -> int | None:
    """Give the time step that a code belongs to, if it is right and later than the last one that was used."""
    present = int(time.time()) // STEP_SECONDS
    totp = pyotp.TOTP(secret)
    for step in range(present - DRIFT_STEPS, present + DRIFT_STEPS + 1):
        if step > after and secrets.compare_digest(totp.at(step * STEP_SECONDS).encode(), code.encode()):
            return step
    return None


def new_recovery_codes() -> list[str]:
    """Give recovery codes; each works once."""
    parts = ["".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(2 * RECOVERY_CODES)]
    return [f"{first}-{second}" for first, second in zip(parts[::2], parts[1::2], strict=True)]


def digest(pepper: bytes, code: str) -> str:
    """Give what is stored of a recovery code: useless without the pepper."""
    return hmac.digest(pepper, code.strip().lower().encode(), hashlib.sha256).hex()

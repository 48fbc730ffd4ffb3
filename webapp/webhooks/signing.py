"""Signatures of webhooks as the Standard Webhooks specification has them, and the secrets that they are made with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

# What the pepper of webhooks' secrets is derived for.
PEPPER = "webhooks"
PREFIX = "whsec_"


def new_nonce() -> str:
    """Give what is stored of a new secret."""
    return secrets.token_hex(16)


def secret_of(pepper: bytes, nonce: str) -> str:
    """Give a secret as receivers take it.

    It is made of what is stored and of the pepper, which is not in the database: a copy of that signs nothing.
    """
    return PREFIX + base64.b64encode(hmac.digest(pepper, nonce.encode(), hashlib.sha256)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Give the signature of one attempt."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    made = hmac.digest(base64.b64decode(secret.removeprefix(PREFIX)), signed, hashlib.sha256)
    return f"v1,{base64.b64encode(made).decode()}"


def headers(shared: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Give the headers by which a receiver knows who sent it; any of the `shared` secrets will do."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(secret, message_id, timestamp, body) for secret in shared),
    }

"""What the log keeps of an instance: each feature as it is, hashed, or not at all; and whose instance it is."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from webapp.errors import Invalid
from webapp.signature import Feature, Row, Signature, Value

# The purpose of the key, which is derived from the installation's secret.
KEY = "log values"
WAYS = ("store", "hash", "drop")
HASH_CHARACTERS = 16
# Longer: what is deleted by it must be that subject's.
SUBJECT_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept of the instances of one version, prepared when it is loaded."""

    # None where nothing is logged: a process that only looks at a version has no key.
    key: bytes | None
    # Position, name, and whether it is hashed; what is dropped is not among them.
    kept: tuple[tuple[int, str, bool], ...]
    # Whether anything is not as it was sent.
    hides: bool
    subject: int | None
    id_is_subject: bool

    def instance(self, row: Row) -> dict[str, Value]:
        """Give what is written down of a row."""
        return {name: self._hashed(name, row[at]) if is_hashed else row[at] for at, name, is_hashed in self.kept}

    def _hashed(self, name: str, value: Value) -> str | None:
        # That a value is missing says nothing of it.
        return None if value is None else _digest(self.key, f"value\0{name}\0{_text(value)}", HASH_CHARACTERS)

    def subject_of(self, row: Row, client_id: str | None) -> str | None:
        """Give the digest of whom it is about; None where that is not known."""
        value = client_id if self.id_is_subject else None if self.subject is None else row[self.subject]
        return None if value is None else subject(self.key, value)


def of(signature: Signature, key: bytes | None) -> Keeping | None:
    """Prepare what a signature says; None where everything is kept as it is and nobody is named."""
    if not hidden(signature) and not names_subject(signature):
        return None
    features = list(enumerate(signature.features))
    return Keeping(
        key,
        kept=tuple((at, each.name, each.log == "hash") for at, each in features if each.log != "drop"),
        hides=bool(hidden(signature)),
        subject=next((at for at, each in features if each.subject), None),
        id_is_subject=signature.id_is_subject,
    )


def hidden(signature: Signature) -> dict[str, str]:
    """Give the features that the log has not as they were sent, each with `hash` or `drop`."""
    return {each.name: each.log for each in signature.features if each.log in {"hash", "drop"}}


def names_subject(signature: Signature) -> bool:
    """Whether predictions are kept as somebody's."""
    return signature.id_is_subject or any(each.subject for each in signature.features)


# --- Digests ------------------------------------------------------------------------------------------------


def subject(key: bytes | None, value: Value) -> str:
    """Give the digest of a subject, the same for every model."""
    return _digest(key, f"subject\0{_text(value)}", SUBJECT_CHARACTERS)


def subjects(key: bytes, written: str) -> set[str]:
    """Give the digests of what a person may mean: the text, and the number that it is where it is one."""
    meant: list[Value] = [written]
    with suppress(ValueError, OverflowError):
        number = float(written)
        meant += [number] if math.isfinite(number) else []
    return {subject(key, each) for each in meant}


def _digest(key: bytes | None, text: str, characters: int) -> str:
    assert key is not None, "who logs has the key"
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:characters]


def _text(value: Value) -> str:
    """Write a value: 7 and 7.0 alike, the text "7" otherwise."""
    if isinstance(value, bool):
        return f"b:{value}"
    if isinstance(value, str):
        return f"s:{value}"
    number = float(value or 0)
    return f"n:{int(number) if number.is_integer() else repr(number)}"


# --- As a model's metadata says it --------------------------------------------------------------------------


def check(declared: Sequence[Mapping[str, Any]], whose: object) -> None:
    """Refuse what cannot be said; `whose` is what stands beside the features."""
    for item in declared:
        if item.get("log", "store") not in WAYS:
            raise _unusable(f'of the feature “{item["name"]}”, "log" is one of {", ".join(WAYS)}')
        if not isinstance(item.get("subject", False), bool):
            raise _unusable(f'of the feature “{item["name"]}”, "subject" is true or false')
    if whose is not None and whose != "id":
        raise _unusable('"subject" beside the features is "id": the caller\'s own; else a feature says it')
    if sum(item.get("subject", False) for item in declared) + (whose == "id") > 1:
        raise _unusable("one feature or the caller's id is the subject, not several")


def _unusable(why: str) -> Invalid:
    return Invalid("metadata_unreadable", f"The metadata cannot be used: {why}.")


def declare(signature: Signature, declared: Sequence[Mapping[str, Any]], whose: object) -> Signature:
    """Give the signature with what the metadata says."""
    stated = {str(item["name"]): item for item in declared}
    features = tuple(
        replace(each, log=stated[each.name].get("log"), subject=stated[each.name].get("subject", False))
        if each.name in stated
        else each
        for each in signature.features
    )
    return replace(signature, features=features, id_is_subject=whose == "id")


def inherit(old: Signature, new: Signature) -> Signature:
    """Give the new signature with what it does not say itself: what was hidden stays so until somebody says else."""
    before = {each.name: each for each in old.features}
    said = names_subject(new)
    features = tuple(_inheriting(before.get(each.name), each, said=said) for each in new.features)
    return replace(new, features=features, id_is_subject=new.id_is_subject or (old.id_is_subject and not said))


def _inheriting(old: Feature | None, new: Feature, *, said: bool) -> Feature:
    if old is None:
        return new
    return replace(new, log=new.log or old.log, subject=new.subject or (old.subject and not said))


def describe(feature: Feature) -> Iterator[str]:
    """Say in words what is special about a feature in the log."""
    if feature.log in {"hash", "drop"}:
        yield {"hash": "hashed", "drop": "not kept"}[feature.log]
    if feature.subject:
        yield "the subject"

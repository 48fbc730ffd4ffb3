"""Brings a version into memory: verified, checked on its golden rows, planned where that is proven, and tried."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from webapp import artifacts, faults, signature
from webapp.artifacts import ArtifactStore
from webapp.catalog import ServedVersion
from webapp.errors import Invalid, Unavailable
from webapp.serving import batching, golden
from webapp.serving.batching import Shared
from webapp.serving.cache import PredictionCache
from webapp.serving.golden import Golden
from webapp.serving.loaded import LoadedVersion
from webapp.serving.memory import resident_bytes
from webapp.serving.predictor import Predictor
from webapp.serving.proof import Proof, planned
from webapp.serving.sample import sample
from webapp.serving.verdicts import Verdicts
from webapp.signature import Row, Signature, keeping
from webapp.signature.check import Checker


class Loader:
    """Loads versions from a store, for callers who share calls and kept answers where there is a cache."""

    def __init__(
        self,
        store: ArtifactStore,
        secret: bytes,
        cache: PredictionCache | None,
        verdicts: Verdicts | None = None,
        log_key: bytes | None = None,
    ) -> None:
        """`secret` checks the seals of versions; `verdicts` are what other processes have proven.

        `log_key` is for who logs: some features are hashed before they are written anywhere.
        """
        self._store = store
        self._secret = secret
        self._cache = cache
        self._verdicts = verdicts
        self._log_key = log_key

    def load(self, version: ServedVersion) -> LoadedVersion:
        """Bring a version into memory; raise `Unavailable` where it is not what was stored."""
        started, resident = time.monotonic(), resident_bytes()
        faults.point("runtime.load")
        expected = artifacts.seal(
            self._secret,
            version.model,
            version.number,
            version.artifact,
            version.signature,
            golden=version.golden,
            report_sha256=version.report_sha256,
        )
        if expected != version.seal:
            raise Unavailable("version_damaged", "The version's row is not what was stored.")
        learned = signature.from_dict(dict(version.signature))
        checker = Checker(learned)
        content = self._store.get(version.artifact)
        estimator, least = artifacts.load(content), len(content)
        del content  # what is measured below is what stays
        predictor = Predictor(estimator, learned)
        kept = Golden.from_json(self._store.get(version.golden)) if version.golden else Golden((), ())
        golden.check(predictor, kept)
        known = self._known(version)
        proof = None
        if version.may_plan:
            predictor, proof = planned(
                predictor,
                estimator,
                learned,
                lambda: [*kept.rows, *self._reference_rows(version, learned, checker)],
                known,
            )
        if self._verdicts and proof and proof.holds and proof is not known:
            self._verdicts.keep(version, proof)
        grown = max(resident_bytes() - resident, least)
        loaded = LoadedVersion(
            version,
            learned,
            checker,
            predictor,
            time.monotonic() - started,
            grown,
            usual=_usual(learned, checker, kept.rows),
            proof=proof,
            keeping=keeping.of(learned, self._log_key),
        )
        return self._joined(loaded)

    def without_plan(self, loaded: LoadedVersion, version: ServedVersion) -> LoadedVersion:
        """Give a version that is in memory as `version`, which is it without its plan. Nothing is read for it."""
        self._known(version)
        return self._joined(replace(loaded, version=version, predictor=loaded.predictor.by(None), proof=None))

    def _known(self, version: ServedVersion) -> Proof | None:
        """Give what other processes have proven of it; forget that where it may have no plan."""
        if self._verdicts is None:
            return None
        if version.may_plan:
            return self._verdicts.of(version)
        self._verdicts.forget(version)
        return None

    def _reference_rows(self, version: ServedVersion, learned: Signature, checker: Checker) -> list[Row]:
        """Give the first rows of the reference that the signature takes; one that cannot be read has none."""
        if version.reference is None:
            return []
        try:
            instances = sample({version.number: self._store.get(version.reference)}, (learned, learned)).instances
        except Exception:  # noqa: BLE001 - it only adds to what a plan is proven with
            return []
        return list(_acceptable(checker, instances))

    def _joined(self, loaded: LoadedVersion) -> LoadedVersion:
        """Try a version, and have its callers share calls and answers where that changes none."""
        if self._cache is None:
            return loaded
        predictor = loaded.predictor
        trial = batching.tried(predictor, loaded.usual)
        plan = predictor.plan
        shared = Shared(predictor) if trial.independent and (plan is None or plan.is_itself) else None
        computed_by = plan.name if plan else "scikit-learn"
        cache, caching = self._cache.of(loaded.version, computed_by, (shared or predictor).predict, loaded.usual, trial)
        return replace(loaded, shared=shared, cache=cache, caching=caching)


def _acceptable(checker: Checker, instances: Iterable[object]) -> Iterator[Row]:
    for instance in instances:
        with suppress(Invalid):
            yield from checker.rows([instance], [""])


def _usual(learned: Signature, checker: Checker, rows: Sequence[Row]) -> Sequence[Row]:
    """Give golden rows; made-up ones where there is only one, which had none beside it."""
    if len(rows) != 1:
        return rows
    made = sample({}, (learned, learned)).instances[: batching.TRIED_ROWS]
    try:
        return checker.rows(made, [""] * len(made))
    except Invalid:
        return rows

"""The versions a process has loaded, and the switch from one catalog to the next in a single assignment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from webapp import artifacts, faults, signature
from webapp.artifacts import ArtifactStore
from webapp.catalog import Catalog, ServedVersion
from webapp.errors import Refusal, Unavailable
from webapp.serving import golden
from webapp.serving.golden import Golden
from webapp.serving.predictor import Outcome, Predictor
from webapp.signature import Row, Signature
from webapp.signature.check import Checker

# Versions that are asked for by number, beside the active ones, which always stay.
MOST_EXTRA_VERSIONS = 8
# What was prepared is activated within this time, or never.
PREPARED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one instance became: the row the estimator saw, and the public form of what it said."""

    row: Row
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """Everything one request needs, taken once at its start, so that no answer mixes versions."""

    version: ServedVersion
    signature: Signature
    checker: Checker
    predictor: Predictor
    load_seconds: float

    def predict(self, instances: Sequence[object], pointers: Sequence[str], ids: Sequence[str]) -> list[Answer]:
        """Check instances, predict them in one call, and give one answer for each.

        `pointers` are their places in the request's body, `ids` the ids of the predictions.
        Raises `Invalid` with every problem of every instance.
        """
        rows = self.checker.rows(instances, pointers)
        outcomes = self.predictor.predict(rows, pointers)
        return [
            Answer(row, self._document(prediction_id, row, outcome))
            for prediction_id, row, outcome in zip(ids, rows, outcomes, strict=True)
        ]

    def _document(self, prediction_id: str, row: Row, outcome: Outcome) -> dict[str, Any]:
        document: dict[str, Any] = {"prediction": outcome.prediction}
        if outcome.probabilities is not None:
            document |= {"probability": outcome.probability, "probabilities": outcome.probabilities}
        document |= {
            "model": self.version.model,
            "model_version": self.version.shown,
            "prediction_id": prediction_id,
        }
        if warnings := self.checker.warnings(row):
            document["warnings"] = warnings
        return document


@dataclass(frozen=True, slots=True)
class _State:
    catalog: Catalog
    # The last good version answers for a model whose new active one cannot be loaded.
    active: dict[str, LoadedVersion]
    # The version that was active before, ready for a roll back.
    previous: dict[str, LoadedVersion]


def _reason(error: Exception) -> str:
    """Say why a version cannot be loaded. Of a fault that is not ours to explain only the kind: it may name a path."""
    return str(error) if isinstance(error, Refusal) else type(error).__name__


class Runtime:
    """Predictions of one process. Reading is free of locks; loading happens beside the traffic."""

    def __init__(
        self,
        store: ArtifactStore,
        secret: bytes,
        on_load: Callable[[LoadedVersion], None] = lambda _loaded: None,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`secret` checks the seals of versions; `on_load` is told of each version that was loaded.

        Loads are done in `turn`, which the processes of a host share.
        """
        self._store = store
        self._secret = secret
        self._on_load = on_load
        self._turn = turn
        self._state = _State(Catalog(), {}, {})
        self._extra: dict[ServedVersion, LoadedVersion] = {}
        # Ready to be activated, and since when.
        self._prepared: dict[ServedVersion, tuple[LoadedVersion, float]] = {}
        self._loading = threading.Lock()

    @property
    def catalog(self) -> Catalog:
        """The catalog that is served."""
        return self._state.catalog

    def served(self, model: str, number: int | None = None) -> LoadedVersion:
        """Give the loaded version that answers; one that is asked for by number is loaded on demand."""
        state = self._state
        active = state.active.get(model)
        if active and number in {None, active.version.number}:
            return active
        version = state.catalog.resolve(model, number)
        if number is None:
            raise Unavailable("version_not_loaded", f"The active version of “{model}” cannot be loaded here.")
        return self._kept(version) or self._load_extra(version)

    def holds(self, version: ServedVersion) -> bool:
        """Whether a switch to this version would load nothing."""
        active = self._state.active.get(version.model)
        return bool((active and active.version == version) or self._kept(version))

    def prepare(self, version: ServedVersion) -> str:
        """Load a version that is about to be activated, so that the switch to it loads nothing.

        Gives why it cannot be loaded, or nothing.
        """
        try:
            with nullcontext() if self.holds(version) else self._turn():
                loaded = self._loaded(version)
        except Exception as error:  # noqa: BLE001 - whatever it is, the version is not activated
            return _reason(error)
        # Replaced, never changed, as `_extra`.
        self._prepared = {**self._prepared, version: (loaded, time.monotonic())}
        return ""

    def forget_prepared(self) -> None:
        """Let go of what was prepared and not activated."""
        since = time.monotonic() - PREPARED_SECONDS
        self._prepared = {version: each for version, each in self._prepared.items() if each[1] > since}

    def switch(self, catalog: Catalog) -> list[str]:
        """Load what `catalog` makes active, then serve it. Gives a sentence for each version that failed."""
        # All of it in one turn: of workers that start together, the first answers before the last has loaded.
        with nullcontext() if all(map(self.holds, catalog.active_versions())) else self._turn():
            return self._switch(catalog)

    def _switch(self, catalog: Catalog) -> list[str]:
        before = self._state
        active, failures = {}, []
        for version in catalog.active_versions():
            try:
                active[version.model] = self._loaded(version)
            except Exception as error:  # noqa: BLE001 - whatever it is, the last good version goes on
                failures.append(f"{version.model} {version.number}: {_reason(error)}")
                if last_good := before.active.get(version.model):
                    active[version.model] = last_good
        replaced = {name: loaded for name, loaded in before.active.items() if active.get(name) is not loaded}
        self._prepared = {
            version: each for version, each in self._prepared.items() if active.get(version.model) is not each[0]
        }
        self._state = _State(catalog, active, {**before.previous, **replaced})
        return failures

    def active_versions(self) -> list[ServedVersion]:
        """The versions that answer when none is asked for."""
        return [loaded.version for loaded in self._state.active.values()]

    def serves_all(self) -> bool:
        """Whether every active version of the catalog is the one that answers."""
        state = self._state
        answering = {loaded.version for loaded in state.active.values()}
        return all(version in answering for version in state.catalog.active_versions())

    def _loaded(self, version: ServedVersion) -> LoadedVersion:
        active = self._state.active.get(version.model)
        if active and active.version == version:
            return active
        return self._kept(version) or self._load(version)

    def _kept(self, version: ServedVersion) -> LoadedVersion | None:
        if prepared := self._prepared.get(version):
            return prepared[0]
        previous = self._state.previous.get(version.model)
        return previous if previous and previous.version == version else self._extra.get(version)

    def _load(self, version: ServedVersion) -> LoadedVersion:
        started = time.monotonic()
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
        estimator = artifacts.load(self._store.get(version.artifact))
        predictor = Predictor(estimator, learned)
        if version.golden:
            golden.check(predictor, Golden.from_json(self._store.get(version.golden)))
        loaded = LoadedVersion(version, learned, Checker(learned), predictor, time.monotonic() - started)
        self._on_load(loaded)
        return loaded

    def _load_extra(self, version: ServedVersion) -> LoadedVersion:
        with self._loading:
            if version in self._extra:
                return self._extra[version]
            try:
                with self._turn():
                    loaded = self._load(version)
            except Refusal:
                raise
            except Exception as error:
                detail = f"Version {version.number} of “{version.model}” cannot be loaded."
                raise Unavailable("version_not_loadable", detail) from error
            self._keep_extra(loaded)
            return loaded

    def _keep_extra(self, loaded: LoadedVersion) -> None:
        # Replaced, never changed: readers look into it without a lock.
        extra = {**self._extra, loaded.version: loaded}
        for version in list(extra)[:-MOST_EXTRA_VERSIONS]:
            del extra[version]
        self._extra = extra

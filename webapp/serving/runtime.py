"""The versions a process has loaded, and the switch from one catalog to the next in a single assignment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from webapp.artifacts import ArtifactStore
from webapp.catalog import Catalog, ServedVersion
from webapp.errors import Refusal, Unavailable
from webapp.serving.cache import PredictionCache
from webapp.serving.loaded import LoadedVersion
from webapp.serving.loading import Loader
from webapp.serving.verdicts import Verdicts

# Versions that are asked for by number, beside the active ones and those before them, which always stay. The one that
# was asked for last stays whatever it takes.
MOST_EXTRA_VERSIONS = 32
MOST_EXTRA_BYTES = 1024**3
# What was prepared is activated within this time, or never.
PREPARED_SECONDS = 600.0


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

    def __init__(  # noqa: PLR0913 - all that loading needs
        self,
        store: ArtifactStore,
        secret: bytes,
        on_load: Callable[[LoadedVersion], None] = lambda _loaded: None,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
        most_extra_bytes: int = MOST_EXTRA_BYTES,
        cache: PredictionCache | None = None,
        verdicts: Verdicts | None = None,
        log_key: bytes | None = None,
    ) -> None:
        """`secret` checks the seals of versions; `on_load` is told of each version that was loaded.

        Loads are done in `turn`, which the processes of a host share. `most_extra_bytes` is what the versions may take
        that are neither active nor were before. Without a `cache` the process has no callers who come at once: they
        share nothing. `verdicts` are what the processes of a host have proven. `log_key` is for those that log.
        """
        self._loader = Loader(store, secret, cache, verdicts, log_key)
        self._on_load = on_load
        self._turn = turn
        self._most_extra_bytes = most_extra_bytes
        self._state = _State(Catalog(), {}, {})
        self._extra: dict[ServedVersion, LoadedVersion] = {}
        # When each of them was asked for last.
        self._asked: dict[ServedVersion, float] = {}
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
        self._asked[version] = time.monotonic()
        return self._kept(version) or self._load_extra(version)

    def holds(self, version: ServedVersion) -> bool:
        """Whether a switch to this version would load nothing."""
        return self._in_memory(version) is not None

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
        # The same version without its plan takes the place of itself, not of the one that a roll back returns to.
        replaced = {
            name: loaded
            for name, loaded in before.active.items()
            if name not in active or active[name].version.number != loaded.version.number
        }
        self._prepared = {
            version: each for version, each in self._prepared.items() if active.get(version.model) is not each[0]
        }
        self._state = _State(catalog, active, {**before.previous, **replaced})
        return failures

    def loaded(self) -> list[tuple[str, LoadedVersion]]:
        """Every version in memory, each once, with the first part that it plays."""
        state = self._state
        parts = {
            "active": list(state.active.values()),
            "previous": list(state.previous.values()),
            "prepared": [loaded for loaded, _ in self._prepared.values()],
            "extra": list(self._extra.values()),
        }
        found: dict[int, tuple[str, LoadedVersion]] = {}
        for role, versions in parts.items():
            for loaded in versions:
                found.setdefault(id(loaded), (role, loaded))
        return list(found.values())

    def held(self) -> list[dict[str, Any]]:
        """Describe every version in memory, for those who look at this process from outside."""
        return [{"role": role, **loaded.describe()} for role, loaded in self.loaded()]

    def active_versions(self) -> list[ServedVersion]:
        """The versions that answer when none is asked for."""
        return [loaded.version for loaded in self._state.active.values()]

    def serves_all(self) -> bool:
        """Whether every active version of the catalog is the one that answers."""
        state = self._state
        answering = {loaded.version for loaded in state.active.values()}
        return all(version in answering for version in state.catalog.active_versions())

    def _loaded(self, version: ServedVersion) -> LoadedVersion:
        return self._in_memory(version) or self._without_plan(version) or self._load(version)

    def _in_memory(self, version: ServedVersion) -> LoadedVersion | None:
        active = self._state.active.get(version.model)
        return active if active and active.version == version else self._kept(version)

    def _kept(self, version: ServedVersion) -> LoadedVersion | None:
        if prepared := self._prepared.get(version):
            return prepared[0]
        previous = self._state.previous.get(version.model)
        return previous if previous and previous.version == version else self._extra.get(version)

    def _without_plan(self, version: ServedVersion) -> LoadedVersion | None:
        """Give a version that is in memory without its plan, where that is all that changes.

        Nothing is loaded for it: that could fail, and a plan that answers wrongly must not go on as the last good one.
        """
        planned = None if version.may_plan else self._in_memory(replace(version, may_plan=True))
        return self._loader.without_plan(planned, version) if planned else None

    def _load(self, version: ServedVersion) -> LoadedVersion:
        loaded = self._loader.load(version)
        self._on_load(loaded)
        return loaded

    def _load_extra(self, version: ServedVersion) -> LoadedVersion:
        with self._loading:
            if version in self._extra:
                return self._extra[version]
            try:
                with self._turn():
                    loaded = self._without_plan(version) or self._load(version)
            except Refusal:
                raise
            except Exception as error:
                detail = f"Version {version.number} of “{version.model}” cannot be loaded."
                raise Unavailable("version_not_loadable", detail) from error
            self._keep_extra(loaded)
            return loaded

    def _keep_extra(self, loaded: LoadedVersion) -> None:
        """Keep a version as long as there is room; what was not asked for the longest goes first."""
        extra = {**self._extra, loaded.version: loaded}
        for version in sorted(self._extra, key=lambda version: self._asked.get(version, 0.0)):
            if len(extra) <= MOST_EXTRA_VERSIONS and _bytes(extra.values()) <= self._most_extra_bytes:
                break
            del extra[version]
        # Replaced, never changed: readers look into it without a lock.
        self._extra = extra
        self._asked = {version: moment for version, moment in self._asked.copy().items() if version in extra}


def _bytes(versions: Iterable[LoadedVersion]) -> int:
    return sum(loaded.memory_bytes for loaded in versions)

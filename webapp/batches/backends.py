"""Where chunks are computed: in threads of the worker, in processes beside it, or on a Dask cluster."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Protocol

from webapp import __version__, artifacts, storage
from webapp.artifacts import ArtifactStore
from webapp.batches.computing import Computed, Task, compute
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.errors import Refusal, Unavailable
from webapp.serving.loaded import LoadedVersion
from webapp.serving.loading import Loader
from webapp.serving.proof import Proof
from webapp.serving.verdicts import LIBRARIES, Verdicts
from webapp.storage import Folder, Remote

# Single predictions come first: a share of the processor is left to batches where both want it.
NICENESS = 10
# On a cluster: how long an answer of its scheduler may take, and how long it may be without a worker, as one that
# starts them on demand is at first.
ANSWER_SECONDS = 10.0
WITHOUT_WORKERS_SECONDS = 60.0
# A worker that is done finds the next chunk there already; so much is in memory here at most.
CHUNKS_PER_THREAD = 2
MOST_CHUNKS = 32
# Another process keeps so many versions, those that it was asked for last.
MOST_VERSIONS = 8


class Backend(Protocol):
    """Computes chunks, several at a time, each once: who submits them decides about another attempt."""

    def room(self) -> int:
        """How many chunks may be under way; raise `Unavailable` where none that is under way will come back."""

    def submit(self, loaded: LoadedVersion, task: Task, content: bytes) -> Future[Computed]:
        """Begin to compute a chunk."""

    def close(self) -> None:
        """Let go of what is under way."""


def made(settings: Settings) -> Backend:
    """Make the backend that the settings choose. Nothing is started before the first chunk."""
    if settings.batch_backend == "dask":
        assert settings.dask_address, "settings are checked when they are read"
        return Dask(settings.dask_address, artifacts.opened(settings))
    return Processes(settings) if settings.batch_backend == "loky" else Threads()


# --- In this process ----------------------------------------------------------------------------------------


class Threads:
    """Threads of this process, which share the versions that it has loaded."""

    def __init__(self) -> None:
        """Their number is that of the processors: much of the work holds Python's lock, but not all."""
        self._count = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._count, "chunk", initializer=_give_way)

    def room(self) -> int:
        """One for each thread."""
        return self._count

    def submit(self, loaded: LoadedVersion, task: Task, content: bytes) -> Future[Computed]:
        """Compute a chunk in a thread."""
        return self._pool.submit(compute, loaded, task, content)

    def close(self) -> None:
        """Leave what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    # Of the thread that calls it, not of the whole process: a thread is a process to Linux.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


# --- In other processes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """What another process needs to load a version that was loaded here, and to answer as it does here."""

    # The storage of artifacts: a folder or a URL.
    place: str
    version: ServedVersion
    proof: Proof | None
    libraries: tuple[str, ...]
    # What features are hashed with before they are written anywhere; None where none is.
    log_key: bytes | None = None


class _Told(Verdicts):
    """The proof that was made where the version was loaded first."""

    def __init__(self, proof: Proof | None) -> None:
        self._proof = proof

    def of(self, _version: ServedVersion) -> Proof | None:
        """Give it; there is no other."""
        return self._proof

    def keep(self, version: ServedVersion, proof: Proof) -> None:
        """Keep nothing."""

    def forget(self, version: ServedVersion) -> None:
        """Forget nothing."""


# The seal was checked with the installation's secret when the version was loaded here, and that secret stays here.
# Whoever may send work to another process may have it run anything: it is the digests of what it reads that it checks.
_NO_SECRET = b""


def model_of(loaded: LoadedVersion, place: str) -> Model:
    """Describe a loaded version for another process."""
    version = loaded.version
    seal = artifacts.seal(
        _NO_SECRET,
        version.model,
        version.number,
        version.artifact,
        version.signature,
        golden=version.golden,
        report_sha256=version.report_sha256,
    )
    by_plan = loaded.predictor.plan is not None
    sent = replace(version, seal=seal, may_plan=by_plan)
    log_key = loaded.keeping.key if loaded.keeping else None
    return Model(place, sent, loaded.proof if by_plan else None, _libraries(), log_key)


def _libraries() -> tuple[str, ...]:
    return (f"modelport {__version__}", *(f"{name} {metadata.version(name)}" for name in LIBRARIES))


class NotComputed(Exception):  # noqa: N818 - it names the fact
    """Why another process did not compute a chunk, as its refusal said: of this kind because that is made to travel."""

    @property
    def detail(self) -> str:
        """The sentence."""
        return str(self)


_loading = threading.Lock()


def compute_elsewhere(model: Model, task: Task, content: bytes) -> Computed:
    """Compute a chunk in a process that loads the version itself, once."""
    try:
        with _loading:
            loaded = _loaded(model)
        return compute(loaded, task, content)
    except Refusal as refusal:
        raise NotComputed(refusal.detail) from None


@lru_cache(MOST_VERSIONS)
def _loaded(model: Model) -> LoadedVersion:
    if strangers := sorted(set(model.libraries) - set(_libraries())):
        detail = f"Where the batch is computed other packages are installed than here; needed: {', '.join(strangers)}."
        raise Unavailable("batch_backend_differs", detail)
    return Loader(_store(model.place), _NO_SECRET, None, _Told(model.proof), model.log_key).load(model.version)


def _store(place: str) -> ArtifactStore:
    # What it takes to reach a store stands in the environment of who reaches it.
    kept = storage.made(os.environ.get("MODELPORT_ARTIFACT_STORE") or place)
    copies = Folder(Path(gettempdir()) / f"modelport-artifacts-{os.getuid()}")
    return ArtifactStore(kept, None if isinstance(kept, Folder) else copies)


class Processes:
    """Processes on this machine, which each load what they are asked for."""

    def __init__(self, settings: Settings) -> None:
        """They are started by the first chunk, and end when there was none for a while."""
        self._place = settings.artifact_store or str(settings.artifacts_dir.absolute())
        self._count = os.cpu_count() or 1
        self._pool: Any = None

    def room(self) -> int:
        """So many that each process has the next one at hand."""
        return min(CHUNKS_PER_THREAD * self._count, MOST_CHUNKS)

    def submit(self, loaded: LoadedVersion, task: Task, content: bytes) -> Future[Computed]:
        """Compute a chunk in a process; one that ended is replaced by another."""
        from joblib.externals.loky import get_reusable_executor  # noqa: PLC0415 - only where it is chosen

        self._pool = get_reusable_executor(self._count, timeout=60, initializer=_begin)
        future: Future[Computed] = self._pool.submit(compute_elsewhere, model_of(loaded, self._place), task, content)
        return future

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, kill_workers=True)


def _begin() -> None:
    os.nice(NICENESS)
    warnings.simplefilter("ignore")


# --- On a cluster -------------------------------------------------------------------------------------------


class Dask:
    """A Dask cluster: its processes have Modelport installed, and reach the store of artifacts by themselves."""

    def __init__(self, address: str, store: ArtifactStore) -> None:
        """`address` is the scheduler's; nothing is asked of it yet."""
        self._address = address
        kept = store.storage
        self._place = kept.place if isinstance(kept, Remote) else str(_folder(kept).absolute())
        self._client: Any = None
        self._seen = 0.0

    def room(self) -> int:
        """So many that each thread of the cluster has the next one at hand."""
        cores = self._ask(lambda client: client.sync(client.scheduler.ncores, callback_timeout=ANSWER_SECONDS))
        threads: int = sum(cores.values())
        if threads:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > WITHOUT_WORKERS_SECONDS:
            raise self._away("has no worker")
        return min(CHUNKS_PER_THREAD * max(threads, 1), MOST_CHUNKS)

    def submit(self, loaded: LoadedVersion, task: Task, content: bytes) -> Future[Computed]:
        """Compute a chunk on the cluster, which does not try it again where it fails."""
        model = model_of(loaded, self._place)
        future: Future[Computed] = self._ask(
            lambda client: client.get_executor(pure=False, retries=0).submit(compute_elsewhere, model, task, content)
        )
        return future

    def _ask(self, ask: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as the library gives it
        if self._client is None:
            self._client = self._connected()
            self._seen = time.monotonic()
        if self._client.status != "running":
            raise self._away("went away")
        try:
            return ask(self._client)
        except Exception as error:  # noqa: BLE001 - the library has many, of its own and of those below it
            raise self._away(f"does not answer ({type(error).__name__})") from None

    def _connected(self) -> Any:  # noqa: ANN401 - as the library gives it
        from distributed import Client  # noqa: PLC0415 - an extra, which few need

        try:
            connect: Callable[..., Any] = Client
            return connect(self._address, timeout=ANSWER_SECONDS, set_as_default=False, name="modelport")
        except Exception as error:  # noqa: BLE001 - as above
            raise self._away(f"cannot be reached ({type(error).__name__})") from None

    def _away(self, what: str) -> Unavailable:
        self.close()
        return Unavailable("batch_cluster_away", f"The Dask cluster at {self._address} {what}.")

    def close(self) -> None:
        """Let go of the cluster, and it of what it has of us."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close(timeout=1)


def _folder(kept: object) -> Path:
    assert isinstance(kept, Folder)
    return kept.path

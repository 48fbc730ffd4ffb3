"""Tests of the limits that all workers share: exact over processes, threads, deaths and restarts."""

from __future__ import annotations

import fcntl
import itertools
import logging
import multiprocessing
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import limits
import pytest
from flask_limiter import Limiter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from webapp.limits import PROBES, SLICES, MmapStorage, spend

SECOND = 1_000_000_000
START = 1_750_000_000 * SECOND
FOREIGN = b"SQLite format 3\0" + b"somebody needs this" * 100
FORK = multiprocessing.get_context("fork")


class Clock:
    """Nanoseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


def frozen() -> int:
    """A clock that every process of a test sees at the same instant."""
    return START


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits"


@pytest.fixture
def uri(path: Path) -> str:
    return f"mmap://{path}"


@pytest.fixture
def storage(uri: str, clock: Clock) -> MmapStorage:
    return MmapStorage(uri, clock=clock)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """Turn a deadlock into a failure."""

    def bark(*_: object) -> None:
        raise TimeoutError("the test hangs")

    previous = signal.signal(signal.SIGALRM, bark)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def elsewhere(work: Callable[[], Any]) -> Any:
    """Return what the work returns in a process of its own, which has ended by then."""
    here, there = FORK.Pipe()
    child = FORK.Process(target=lambda: there.send(work()), daemon=True)
    child.start()
    there.close()
    result = here.recv()
    child.join()
    return result


def hits(storage: MmapStorage, key: str, limit: int, times: int, window: int = 60) -> int:
    """Return how many of the hits were admitted."""
    return sum(storage.acquire_entry(key, limit, window) for _ in range(times))


def is_locked(path: Path) -> bool:
    """Tell whether another process has the lock."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# --- Exactness over processes and threads ---------------------------------------------------


def hammer(uri: str, limit: int, tries: int, start: Any, results: Any) -> None:
    """Hit one limit and one key per thread from eight threads, and report what was admitted."""
    storage = MmapStorage(uri, clock=frozen)
    limiter = MovingWindowRateLimiter(storage)
    shared, own = limits.parse(f"{limit}/hour"), limits.parse(f"{tries}/hour")
    admitted: list[tuple[int, int]] = []

    def run(thread: int) -> None:
        start.wait()
        ours = theirs = 0
        for _ in range(tries):
            ours += limiter.hit(shared, "key", "shared")
            theirs += limiter.hit(own, "thread", f"{os.getpid()}-{thread}")
        admitted.append((ours, theirs))

    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(admitted)


def admitted_by(method: str, processes: int, uri: str, limit: int, tries: int) -> list[int]:
    """Hammer from that many processes; return what of the shared limit each thread was given."""
    context: Any = multiprocessing.get_context(method)
    start, results = context.Barrier(processes * 8), context.Queue()
    workers = [
        context.Process(target=hammer, args=(uri, limit, tries, start, results), daemon=True) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    outcomes = list(itertools.chain.from_iterable(results.get() for _ in workers))
    for worker in workers:
        worker.join()
    assert {own for _, own in outcomes} == {tries}, "one key took from the limit of another"
    return [shared for shared, _ in outcomes]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_processes_of_eight_threads_admit_exactly_the_limit(uri: str, method: str) -> None:
    assert sum(admitted_by(method, 2, uri, limit=2500, tries=250)) == 2500


def test_four_processes_of_eight_threads_admit_exactly_the_limit(uri: str) -> None:
    # Opened before the fork, so that the children inherit the descriptor.
    assert MmapStorage(uri).check()
    assert sum(admitted_by("fork", 4, uri, limit=5000, tries=250)) == 5000


def waiters(path: Path) -> int:
    """Return how many processes wait for the lock of the file."""
    inode = f":{path.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("->" in line and inode in line for line in lines)


def test_four_processes_that_find_a_foreign_file_at_once_share_its_successor(uri: str, path: Path) -> None:
    path.write_bytes(FOREIGN)
    results = FORK.SimpleQueue()
    work = lambda: results.put(hits(MmapStorage(uri, clock=frozen), "k", 5, 2))  # noqa: E731
    workers = [FORK.Process(target=work, daemon=True) for _ in range(4)]
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        for worker in workers:
            worker.start()
        while waiters(path) < 4:
            os.sched_yield()
    assert sum(results.get() for _ in workers) == 5
    for worker in workers:
        worker.join()


def test_threads_of_one_process_admit_exactly_the_limit(uri: str) -> None:
    assert sum(admitted_by("fork", 1, uri, limit=1500, tries=250)) == 1500


def test_two_storages_of_one_process_count_together(uri: str) -> None:
    one, two = MmapStorage(uri, clock=frozen), MmapStorage(uri, clock=frozen)
    assert hits(one, "k", 5, 3) + hits(two, "k", 5, 3) == 5


def test_a_storage_opened_before_the_fork_counts_with_its_children(storage: MmapStorage) -> None:
    assert hits(storage, "k", 3, 1) == 1
    assert elsewhere(lambda: hits(storage, "k", 3, 1)) == 1
    assert elsewhere(lambda: hits(storage, "k", 3, 3)) == 1
    assert hits(storage, "k", 3, 3) == 0


def test_a_fork_while_a_thread_holds_the_lock_leaves_the_child_able_to_hit(
    storage: MmapStorage,
) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with storage._file:
            held.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    here, there = FORK.Pipe()
    child = FORK.Process(target=lambda: there.send(hits(storage, "k", 3, 2)), daemon=True)
    child.start()
    there.close()
    release.set()
    holder.join()
    assert here.recv() == 2
    child.join()
    assert hits(storage, "k", 3, 2) == 1


# --- The window -----------------------------------------------------------------------------


class History:
    """What a brute-force model knows: every hit that was admitted, in true time."""

    def __init__(self, limit: int, window: int) -> None:
        self.limit = limit
        self.window = window * SECOND
        self.admitted: list[tuple[int, int]] = []

    def since(self, moment: int) -> int:
        return sum(amount for when, amount in self.admitted if when >= moment)

    def admit(self, now: int, amount: int) -> None:
        self.admitted.append((now, amount))
        assert self.since(now - self.window) <= self.limit, "a window holds more than the limit"

    def refuse(self, now: int, amount: int) -> None:
        late = self.window + self.window // SLICES
        assert self.since(now - late) + amount > self.limit, "refused without need"


# Steps of a quarter of a slice and a nanosecond around them: where off-by-one errors live.
WAITS = st.tuples(
    st.one_of(st.integers(0, 8), st.integers(0, 2 * 4 * SLICES), st.sampled_from([240, 244])),
    st.integers(-1, 1),
)
WINDOWS = st.sampled_from([1, 7, 60, 3600, 86_400 * 360])


def duration(wait: tuple[int, int], window: int) -> int:
    quarters, extra = wait
    return max(0, quarters * window * SECOND // (4 * SLICES) + extra)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[MmapStorage, Clock]:
    """A storage whose keys all compete for the same few entries."""
    clock = Clock()
    path = tmp_path_factory.mktemp("small") / "limits"
    return MmapStorage(f"mmap://{path}", entries=1, clock=clock), clock


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 6),
    WINDOWS,
    st.lists(st.tuples(WAITS, st.integers(0, 7)), max_size=60),
)
def test_no_window_holds_more_than_the_limit_and_no_hit_is_refused_without_need(
    small: tuple[MmapStorage, Clock],
    limit: int,
    window: int,
    events: list[tuple[tuple[int, int], int]],
) -> None:
    storage, clock = small
    clock.now = START
    storage.reset()
    history = History(limit, window)
    for wait, amount in events:
        clock.now += duration(wait, window)
        admitted = storage.acquire_entry("k", limit, window, amount)
        (history.admit if admitted else history.refuse)(clock.now, amount)
        used = storage.get_moving_window("k", limit, window)[1]
        assert history.since(clock.now - history.window) <= used <= limit
    clock.now += -(-history.window * (SLICES + 1) // SLICES)
    assert storage.get_moving_window("k", limit, window)[1] == 0
    assert storage.acquire_entry("k", limit, window, amount=limit)


class Killed(BaseException):
    """What stands for SIGKILL: raised between two writes."""


class Dying:
    """A view of the file that lets so many more writes pass, a number it shares with others."""

    def __init__(self, view: Any, left: list[int]) -> None:
        self.view, self.left = view, left

    def __getitem__(self, index: int | slice) -> Any:
        return self.view[index]

    def __setitem__(self, index: int | slice, value: Any) -> None:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Killed
        self.view[index] = value


def dies(storage: MmapStorage, writes: int, hit: Callable[[], bool]) -> bool | None:
    """Hit, but stop after so many writes; return None if the hit got no answer."""
    with storage._file as table:
        whole = table.words, table.longs, table.map
    left = [writes]
    dying: Any = [Dying(view, left) for view in whole]
    table.words, table.longs, table.map = dying
    try:
        return hit()
    except Killed:
        return None
    finally:
        table.words, table.longs, table.map = whole


HIT = st.tuples(st.just("hit"), st.integers(0, 2), st.integers(1, 3))
DEATH = st.tuples(st.just("death"), st.integers(0, 2), st.one_of(st.integers(0, 8), st.integers(50, 75)))
WAIT = st.tuples(st.just("wait"), WAITS, st.none())
STEP_BACK = st.tuples(st.just("step back"), WAITS, st.none())


@settings(deadline=None, max_examples=500)
@example(1, 60, [("death", 1, 65), ("hit", 1, 1), ("hit", 0, 1), ("hit", 1, 1)])
@given(
    st.integers(1, 4),
    WINDOWS,
    st.lists(st.one_of(HIT, HIT, DEATH, WAIT, STEP_BACK), max_size=40),
)
def test_neither_a_death_between_two_writes_nor_a_clock_that_steps_back_admits_too_much(
    small: tuple[MmapStorage, Clock], limit: int, window: int, events: list[tuple[str, Any, Any]]
) -> None:
    storage, clock = small
    clock.now = true = START
    storage.reset()
    history = [History(limit, window) for _ in range(3)]
    for event, what, number in events:
        if event == "wait":
            true += duration(what, window)
            clock.now += duration(what, window)
        elif event == "step back":
            clock.now -= duration(what, window)
        else:
            key, amount = f"k{what}", number if event == "hit" else 1
            writes = 1000 if event == "hit" else number
            hit = lambda: storage.acquire_entry(key, limit, window, amount)  # noqa: B023, E731
            if dies(storage, writes, hit):
                history[what].admit(true, amount)
    storage.acquire_entry("k0", limit, window, amount=0)
    clock.now += duration((4 * SLICES + 4, 1), window)
    assert storage.acquire_entry("k0", limit, window, amount=limit)


def test_the_full_limit_is_back_one_slice_after_the_window_and_nothing_before(
    storage: MmapStorage, clock: Clock
) -> None:
    assert hits(storage, "k", 3, 3) == 3
    clock.wait(60)
    assert hits(storage, "k", 3, 1) == 0
    clock.wait(1)
    assert hits(storage, "k", 3, 4) == 3


def test_the_reset_time_is_the_first_at_which_something_is_admitted(storage: MmapStorage, clock: Clock) -> None:
    limiter, item = MovingWindowRateLimiter(storage), limits.parse("3/minute")
    for wait in (0.5, 10, 10):
        clock.wait(wait)
        limiter.hit(item, "k")
    reset, remaining = limiter.get_window_stats(item, "k")
    assert (reset, remaining) == (START // SECOND + 61, 0)
    clock.now = int(reset * SECOND) - 1
    assert not limiter.hit(item, "k")
    clock.now = int(reset * SECOND)
    assert limiter.hit(item, "k")
    assert limiter.get_window_stats(item, "k") == (START // SECOND + 71, 0)


def test_the_stats_of_an_unused_key_promise_the_whole_limit_now(storage: MmapStorage, clock: Clock) -> None:
    assert storage.get_moving_window("k", 3, 60) == (START / SECOND, 0)
    hits(storage, "k", 3, 3)
    clock.wait(61)
    assert storage.get_moving_window("k", 3, 60) == (START / SECOND + 61, 0)


@given(st.lists(st.tuples(st.sampled_from(["k", "l"]), st.sampled_from([0, 0.4, 1, 7, 59, 61])), max_size=40))
def test_spending_tells_what_counting_and_asking_tell(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, float]]
) -> None:
    clock, item = Clock(), limits.parse("3/minute")
    folder = tmp_path_factory.mktemp("limits")
    one, other = (MmapStorage(f"mmap://{folder}/{name}", clock=clock) for name in ("one", "other"))
    limiter = MovingWindowRateLimiter(other)
    for key, wait in events:
        clock.wait(wait)
        admitted = limiter.hit(item, key)
        assert spend(one, item, key) == (admitted, *limiter.get_window_stats(item, key))


def test_spending_counts_in_any_storage_of_the_library() -> None:
    storage, item = storage_from_string("memory://"), limits.parse("2/minute")
    assert [spend(storage, item, "k")[::2] for _ in range(3)] == [(True, 1), (True, 0), (False, 0)]


def test_asking_does_not_count(storage: MmapStorage) -> None:
    limiter, item = MovingWindowRateLimiter(storage), limits.parse("1/minute")
    assert all(limiter.test(item, "k") for _ in range(3))
    assert limiter.hit(item, "k")
    assert not limiter.test(item, "k")


def test_a_batch_is_admitted_whole_or_not_at_all(storage: MmapStorage) -> None:
    limiter, item = MovingWindowRateLimiter(storage), limits.parse("10/minute")
    assert not limiter.hit(item, "k", cost=11)
    assert limiter.hit(item, "k", cost=7)
    assert not limiter.hit(item, "k", cost=4)
    assert limiter.get_window_stats(item, "k").remaining == 3
    assert limiter.hit(item, "k", cost=3)


def test_a_negative_amount_gives_nothing_back(storage: MmapStorage) -> None:
    assert hits(storage, "k", 2, 2) == 2
    assert not storage.acquire_entry("k", 2, 60, amount=-1)
    assert hits(storage, "k", 2, 1) == 0


def test_a_clock_that_leaped_ahead_and_came_back_blocks_a_key_for_one_window_only(
    storage: MmapStorage, clock: Clock
) -> None:
    clock.wait(86_400)
    assert hits(storage, "k", 3, 3) == 3
    clock.wait(-86_400)
    assert hits(storage, "k", 3, 1) == 0
    clock.wait(61)
    assert hits(storage, "k", 3, 4) == 3


def test_a_clock_that_steps_back_makes_nothing_forgotten(storage: MmapStorage, clock: Clock) -> None:
    assert hits(storage, "k", 3, 3) == 3
    for step in (-1, 1, 1, -2, 30, 29):
        clock.wait(step)
        assert hits(storage, "k", 3, 1) == 0


# --- Deaths and restarts --------------------------------------------------------------------


def test_a_process_killed_with_the_lock_in_hand_neither_blocks_nor_corrupts(storage: MmapStorage, path: Path) -> None:
    here, there = FORK.Pipe()

    def hold() -> None:
        hits(storage, "k", 3, 1)
        with storage._file:
            there.send("locked")
            signal.pause()

    child = FORK.Process(target=hold, daemon=True)
    child.start()
    assert here.recv() == "locked"
    assert is_locked(path)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    assert hits(storage, "k", 3, 3) == 2


def test_counts_survive_a_restart_of_the_server(uri: str) -> None:
    for already in range(3):
        used = elsewhere(lambda: MmapStorage(uri, clock=frozen).get_moving_window("k", 3, 60)[1])
        assert used == already
        assert elsewhere(lambda: hits(MmapStorage(uri, clock=frozen), "k", 3, 1)) == 1
    assert elsewhere(lambda: hits(MmapStorage(uri, clock=frozen), "k", 3, 1)) == 0


# --- The file -------------------------------------------------------------------------------


def test_nothing_is_opened_before_the_first_hit(uri: str, path: Path) -> None:
    storage = storage_from_string(uri, clock=frozen)  # type: ignore[arg-type]
    assert isinstance(storage, MmapStorage)
    assert not path.exists()
    hits(storage, "k", 1, 1)
    assert path.exists()


def test_the_file_is_reserved_as_a_whole_and_for_its_owner_only(storage: MmapStorage, path: Path) -> None:
    hits(storage, "k", 1, 1)
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 >= status.st_size


def test_no_key_can_be_read_in_the_file(storage: MmapStorage, path: Path) -> None:
    hits(storage, "a-secret-name", 1, 1)
    assert b"a-secret-name" not in path.read_bytes()


def other_layout(whole: bytes) -> bytes:
    return whole[:16] + b"\x63" + whole[17:]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: FOREIGN,
        lambda whole: bytes(len(whole)),
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole + b"more",
        other_layout,
    ],
    ids=["empty", "foreign", "zeros", "cut", "longer", "other layout"],
)
def test_a_file_that_is_not_one_of_this_version_is_replaced(
    uri: str, path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    elsewhere(lambda: hits(MmapStorage(uri, clock=frozen), "k", 3, 3))
    path.write_bytes(spoiled := spoil(path.read_bytes()))
    assert elsewhere(lambda: hits(MmapStorage(uri, clock=frozen), "k", 3, 2)) == 2
    assert elsewhere(lambda: hits(MmapStorage(uri, clock=frozen), "k", 3, 2)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    aside = path.with_name("limits.replaced")
    assert (aside.read_bytes() if aside.exists() else b"") == spoiled
    assert {file.name for file in path.parent.iterdir()} <= {"limits", "limits.replaced"}


def test_a_file_deleted_under_running_workers_is_made_anew_for_all_of_them(
    storage: MmapStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hits(storage, "k", 3, 3) == 3
    path.unlink()
    later = time.monotonic() + 2
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert hits(storage, "k", 3, 2) == 2
    assert elsewhere(lambda: hits(storage, "k", 3, 2)) == 1


def test_random_content_under_a_valid_head_refuses_for_one_window_at_most(
    storage: MmapStorage, path: Path, clock: Clock
) -> None:
    hits(storage, "k", 3, 1)
    with storage._file as table:
        at = table.find(table.name("k", 60))
        assert at is not None
        table.map[at + 20 : at + 288] = b"\xfe" * 268
    assert hits(storage, "k", 3, 1) == 0
    clock.wait(61)
    assert hits(storage, "k", 3, 4) == 3


def test_a_folder_that_does_not_exist_is_an_error_and_not_a_free_pass(tmp_path: Path) -> None:
    uri = f"mmap://{tmp_path}/nowhere/limits"
    assert not MmapStorage(uri).check()
    with pytest.raises(FileNotFoundError):
        MmapStorage(uri).acquire_entry("k", 1, 60)
    with pytest.raises(StorageError):
        MmapStorage(uri, wrap_exceptions=True).acquire_entry("k", 1, 60)


def test_a_storage_recovers_once_its_folder_is_there(tmp_path: Path) -> None:
    storage = MmapStorage(f"mmap://{tmp_path}/later/limits", clock=frozen)
    assert not storage.check()
    (tmp_path / "later").mkdir()
    assert storage.check()
    assert hits(storage, "k", 1, 2) == 1


@pytest.mark.parametrize("uri", [None, "mmap://", "mmap://host/path", "mmap:///folder/"])
def test_a_uri_that_names_no_file_is_refused(uri: str | None) -> None:
    with pytest.raises(ConfigurationError):
        MmapStorage(uri)


def test_a_path_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a%20b c#d?e"
    hits(MmapStorage(f"mmap://{path}", clock=frozen), "k", 1, 1)
    assert path.exists()


def test_one_process_cannot_open_a_file_in_two_sizes(uri: str) -> None:
    _storage = MmapStorage(uri, entries=8)
    with pytest.raises(ConfigurationError):
        MmapStorage(uri, entries=9)


# --- The table ------------------------------------------------------------------------------


def test_keys_that_collide_do_not_affect_one_another(uri: str, clock: Clock) -> None:
    storage = MmapStorage(uri, entries=1, clock=clock)
    for _ in range(2):
        admitted = [hits(storage, f"k{number}", number + 1, 50) for number in range(PROBES)]
        assert admitted == list(range(1, PROBES + 1))
        assert all(hits(storage, f"k{number}", number + 1, 1) == 0 for number in range(PROBES))
        clock.wait(61)


def test_one_key_counts_apart_for_each_window(storage: MmapStorage) -> None:
    assert hits(storage, "k", 2, 3, window=60) == 2
    assert hits(storage, "k", 2, 3, window=3600) == 2


def test_a_full_table_refuses_new_keys_and_says_so_once(
    uri: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MmapStorage(uri, entries=1, clock=clock)
    for number in range(PROBES):
        assert hits(storage, f"k{number}", 1, 1, window=60 + 60 * number) == 1
    with caplog.at_level(logging.ERROR):
        assert hits(storage, "new", 9, 5) == 0
        assert storage.incr("new", 60) > 9
    assert len(caplog.records) == 1
    assert "new" not in caplog.text.replace("new keys", "")
    assert storage.get("new") > 9
    assert storage.get_moving_window("new", 9, 60) == (START / SECOND + 1, 9)


def test_in_a_full_table_a_new_key_takes_the_entry_that_expired_and_no_other(uri: str, clock: Clock) -> None:
    storage = MmapStorage(uri, entries=1, clock=clock)
    for number in range(PROBES):
        hits(storage, f"k{number}", 1, 1, window=60 + 60 * number)
    clock.wait(61)
    assert hits(storage, "new", 1, 2) == 1
    for number in range(1, PROBES):
        assert hits(storage, f"k{number}", 1, 1, window=60 + 60 * number) == 0


def test_an_entry_is_not_given_away_a_nanosecond_before_it_expires(uri: str, clock: Clock) -> None:
    storage = MmapStorage(uri, entries=1, clock=clock)
    for number in range(PROBES):
        hits(storage, f"k{number}", 1, 1, window=1)
    clock.now += 1_016_666_666
    assert hits(storage, "new", 1, 1) == 0
    clock.now += 1
    assert hits(storage, "new", 1, 1) == 1


def test_clearing_a_key_forgets_it_in_every_window_and_no_other_key(storage: MmapStorage) -> None:
    for key in ("k", "other"):
        hits(storage, key, 1, 1, window=60)
        hits(storage, key, 1, 1, window=3600)
        storage.incr(key, 60)
    storage.clear("k")
    assert hits(storage, "k", 1, 1, window=60) == hits(storage, "k", 1, 1, window=3600) == 1
    assert hits(storage, "other", 1, 1, window=60) == hits(storage, "other", 1, 1, window=3600) == 0
    assert (storage.get("k"), storage.get("other")) == (0, 1)


def test_a_reset_forgets_every_key_for_every_process(storage: MmapStorage) -> None:
    for number in range(5):
        hits(storage, f"k{number}", 1, 1)
    assert elsewhere(storage.reset) == 5
    assert all(hits(storage, f"k{number}", 1, 2) == 1 for number in range(5))


# --- The fixed window -----------------------------------------------------------------------


def test_a_fixed_window_counts_until_it_ends(storage: MmapStorage, clock: Clock) -> None:
    limiter, item = FixedWindowRateLimiter(storage), limits.parse("2/minute")
    assert limiter.get_window_stats(item, "k") == (START / SECOND, 2)
    assert [limiter.hit(item, "k") for _ in range(3)] == [True, True, False]
    assert limiter.get_window_stats(item, "k") == (START / SECOND + 60, 0)
    clock.wait(59.9)
    assert not limiter.test(item, "k")
    clock.wait(0.1)
    assert limiter.test(item, "k")
    assert limiter.hit(item, "k", cost=2)


def test_a_fixed_window_does_not_count_in_a_moving_one(storage: MmapStorage) -> None:
    assert storage.incr("k", 60, amount=5) == 5
    assert hits(storage, "k", 2, 3) == 2
    assert storage.get("k") == 5


# --- Flask-Limiter --------------------------------------------------------------------------


def tiny_app(uri: str, strategy: str) -> flask.Flask:
    app = flask.Flask("tiny")
    limiter = Limiter(
        lambda: flask.request.headers["X-Key"],
        app=app,
        storage_uri=uri,
        storage_options={"clock": frozen},  # type: ignore[dict-item]
        strategy=strategy,
        headers_enabled=True,
    )

    @app.get("/")
    @limiter.limit("3/minute")
    def hello() -> str:
        return "hello"

    return app


def statuses(app: flask.Flask, key: str, times: int) -> list[int]:
    client = app.test_client()
    return [client.get("/", headers={"X-Key": key}).status_code for _ in range(times)]


@pytest.mark.parametrize("strategy", ["moving-window", "fixed-window"])
def test_flask_limiter_counts_in_it_over_processes(uri: str, strategy: str) -> None:
    app = tiny_app(uri, strategy)
    assert elsewhere(lambda: statuses(app, "one", 2)) == [200, 200]
    assert statuses(app, "one", 2) == [200, 429]
    assert elsewhere(lambda: statuses(tiny_app(uri, strategy), "one", 1)) == [429]
    assert statuses(app, "two", 1) == [200]


def test_flask_limiter_tells_what_remains(uri: str) -> None:
    client = tiny_app(uri, "moving-window").test_client()
    answers = [client.get("/", headers={"X-Key": "k"}) for _ in range(4)]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.headers["X-RateLimit-Reset"] for answer in answers} == {str(START // SECOND + 62)}

"""Measures what Modelport promises to be fast, as ratios of runs that take turns on one machine.

python -m benchmarks.goals                     everything that needs no peers
python -m benchmarks.goals --peers             with every peer, each in an environment of its own
python -m benchmarks.goals --only guide-16     one row
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from webapp import supervisor

os.environ.update(supervisor.ONE_NATIVE_THREAD)

import pandas as pd

from benchmarks import load, models, others, pages, profile_request
from benchmarks.installation import Installation, installed
from benchmarks.load import Asked, Load
from benchmarks.models import Case
from benchmarks.others import Other
from benchmarks.servers import Server
from webapp import app, artifacts, config, db, registry
from webapp.db import Database
from webapp.web import Parts

RESULTS = Path(__file__).parent / "results.json"
MANY = 16
BULK_ROWS = 1000
MICROSECONDS = 1_000_000
# Below what any of the servers can do, so that only an activation can slow it down.
QUIET_RATE = 100
OURS = "Modelport"
ROOMS = "rooms"


@dataclass(frozen=True, slots=True)
class Row:
    """One promise and what was found. `wanted` is the bound of `measured`; without one, the figure only informs."""

    goal: str
    what: str
    unit: str
    measured: list[float]
    wanted: float | None = None
    # Whether less is better.
    at_most: bool = False
    # What else is worth knowing, such as the figures behind the ratio.
    details: dict[str, list[float]] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the promise."""
        if self.wanted is None:
            return None
        found = statistics.median(self.measured)
        return found <= self.wanted if self.at_most else found >= self.wanted

    def line(self) -> str:
        """Say it in one line."""
        middle, low, high = statistics.median(self.measured), min(self.measured), max(self.measured)
        bound = "" if self.wanted is None else f"  goal {'≤' if self.at_most else '≥'} {self.wanted:g}"
        said = {None: "", True: "  met", False: "  MISSED"}[self.met]
        return f"{middle:10.2f} {self.unit} ({low:.2f} to {high:.2f}){bound}{said}  {self.what}"


@dataclass(frozen=True, slots=True)
class Subject:
    """One server that takes part, and what it is asked."""

    name: str
    server: Server
    asked: Asked


class Bench:
    """A run: the folder, the peers, how long and how often; Modelport is installed when it is first needed."""

    def __init__(self, folder: Path, peers: Sequence[Other], rounds: int, seconds: int, logged: int) -> None:
        """`seconds` is how long one round of load lasts; `logged` how many predictions a grown database holds."""
        self.folder, self.peers, self.rounds, self.seconds, self.logged = folder, peers, rounds, seconds, logged
        self._installation: Installation | None = None
        self._keys: dict[Path, str] = {}
        self._uploaded: set[str] = set()

    def installation(self, *cases: Case) -> Installation:
        """Give the installation that holds these models; nothing runs on it."""
        if self._installation is None:
            self._installation = installed(self.folder / "modelport")
        for case in cases:
            if case.name not in self._uploaded:
                print(f"Uploading {case.name} …", flush=True)
                self._installation.upload(case)
                self._uploaded.add(case.name)
        return self._installation

    def asked(self, made: Installation, case: Case, rows: int = 1) -> Asked:
        """Give what Modelport is asked, with a key of that installation."""
        key = self._keys.get(made.folder) or made.make_key()
        self._keys[made.folder] = key
        ours = Other(OURS, lambda _folder, _case: _never(), path=f"/models/{case.name}/predict")
        return Asked(case, ours, {"X-API-Key": key}, rows)

    @contextmanager
    def subjects(self, case: Case, rivals: Iterable[Other]) -> Iterator[list[Subject]]:
        """Run Modelport and others on one model; the others that do not start are named and left out."""
        made = self.installation(case)
        asked = self.asked(made, case)
        with ExitStack() as stack:
            found = [Subject(OURS, stack.enter_context(made.serving()), asked)]
            for rival in rivals:
                try:
                    server = stack.enter_context(rival.run(self.folder / "others", case))
                    subject = Subject(rival.name, server, Asked(case, rival, {}))
                    load.closed_loop(server, subject.asked, 1, 1)
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    print(f"{rival.name} takes no part: {error}", flush=True)
                else:
                    found.append(subject)
            yield found

    def by_turns(self, subjects: Sequence[Subject], measure: Callable[[Subject], Load]) -> dict[str, list[Load]]:
        """Measure each in every round; a first round warms up and does not count."""
        found: dict[str, list[Load]] = {subject.name: [] for subject in subjects}
        for number in range(self.rounds + 1):
            for subject in subjects:
                measured = measure(subject)
                if number:
                    found[subject.name].append(measured)
                    _print_load(subject.name, measured)
        return found

    def throughput(self, subjects: Sequence[Subject], connections: int) -> dict[str, list[Load]]:
        """Measure by turns how many requests are answered in a second."""
        return self.by_turns(
            subjects, lambda each: load.closed_loop(each.server, each.asked, connections, self.seconds)
        )

    @contextmanager
    def two(
        self, case: Case, first: dict[str, Any], second: dict[str, Any]
    ) -> Iterator[tuple[list[Subject], tuple[Server, Server]]]:
        """Run Modelport twice on the same data, with different settings."""
        made = self.installation(case)
        asked = self.asked(made, case)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder, ExitStack() as stack:
            copies = [made.copied(Path(folder) / name) for name in ("first", "second")]
            servers = [
                stack.enter_context(copy.serving(**settings))
                for copy, settings in zip(copies, (first, second), strict=True)
            ]
            subjects = [Subject(name, server, asked) for name, server in zip(("first", "second"), servers, strict=True)]
            yield subjects, (servers[0], servers[1])


def _never() -> Any:  # noqa: ANN401 - stands where a server would be started
    message = "Modelport is started by its installation"
    raise NotImplementedError(message)


def _print_load(name: str, found: Load) -> None:
    refused = f"  {found.failed:.1%} refused" if found.failed else ""
    print(f"    {found.per_second:9.1f}/s  p50 {found.p50_ms:8.2f} ms  p99 {found.p99_ms:8.2f} ms  {name}{refused}")


def _rates(found: Sequence[Load]) -> list[float]:
    return [each.per_second for each in found]


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def _fastest(found: dict[str, list[Load]], peers: Iterable[Other]) -> str | None:
    there = [peer.name for peer in peers if peer.name in found]
    return max(there, key=lambda name: statistics.median(_rates(found[name])), default=None)


# --- Rows -------------------------------------------------------------------------------------------------


def _guide(bench: Bench, connections: int, wanted: dict[str, float]) -> Iterator[Row]:
    rivals = [others.GUIDE, others.ROUTE, others.FUNCTION, *bench.peers]
    with bench.subjects(models.GUIDE, rivals) as subjects:
        found = bench.throughput(subjects, connections)
    rates = {name: _rates(each) for name, each in found.items()}
    goal, load_said = f"guide-{connections}", f"{connections} connection{'s' if connections > 1 else ''}"
    for name in [each for each in rates if each != OURS]:
        what = f"the guide's pipeline, {load_said}, against {name}"
        yield Row(goal, what, "x", _ratios(rates[OURS], rates[name]), wanted.get(name), details=rates)
    if fastest := _fastest(found, bench.peers):
        what = f"the guide's pipeline, {load_said}, against the fastest peer ({fastest})"
        yield Row(goal, what, "x", _ratios(rates[OURS], rates[fastest]), wanted["peer"], details=rates)


def guide_16(bench: Bench) -> Iterator[Row]:
    """The guide's pipeline with 16 connections."""
    return _guide(bench, MANY, {others.GUIDE.name: 17, others.ROUTE.name: 0.45, "peer": 3})


def guide_1(bench: Bench) -> Iterator[Row]:
    """The guide's pipeline with one connection."""
    return _guide(bench, 1, {others.ROUTE.name: 0.55, "peer": 10})


def around(_bench: Bench) -> Iterator[Row]:
    """What is added around the model, in process."""
    command = [sys.executable, "-m", "benchmarks.profile_request", "--json"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own
    profile: dict[str, dict[str, list[float]]] = json.loads(printed.splitlines()[-1])
    found = profile["pieces"]
    what = "added around the model to a Flask route that returns {}, processor time in process"
    yield Row("around", what, "µs", found[profile_request.ADDED], 120, at_most=True, details=found)
    ours, route = found["Modelport, WSGI call"], found["Flask route {}, WSGI call"]
    yield Row("around", "one WSGI call, against that of the Flask route", "x", _ratios(ours, route), details=found)
    what = "one request through Gunicorn, processor time; its details are the rooms that it is spent in"
    yield Row(ROOMS, what, "µs", found[profile_request.WHOLE], details=profile["rooms"])


def _kind(case: Case, wanted: float) -> Callable[[Bench], Iterator[Row]]:
    def against_peers(bench: Bench) -> Iterator[Row]:
        return _against_peers(bench, case, wanted)

    return against_peers


def _against_peers(bench: Bench, case: Case, wanted: float) -> Iterator[Row]:
    if not bench.peers:
        print("    needs --peers")
        return
    with bench.subjects(case, bench.peers) as subjects:
        found = bench.throughput(subjects, MANY)
    rates = {name: _rates(each) for name, each in found.items()}
    if fastest := _fastest(found, bench.peers):
        what = f"{case.name}, {MANY} connections, against the fastest peer ({fastest})"
        yield Row(case.name, what, "x", _ratios(rates[OURS], rates[fastest]), wanted, details=rates)


def bulk(bench: Bench) -> Iterator[Row]:
    """One request with 1,000 rows."""
    case = models.WIDE
    made = bench.installation(case)
    matrix = pd.DataFrame(list(islice(case.instances(), BULK_ROWS)))
    with made.serving() as server:
        asked = bench.asked(made, case, BULK_ROWS)
        ours: list[float] = []
        alone: list[float] = []
        for number in range(bench.rounds + 1):
            measured = load.closed_loop(server, asked, 1, bench.seconds)
            calls, began = 0, time.perf_counter()
            while (took := time.perf_counter() - began) < bench.seconds:
                case.estimator.predict(matrix)
                calls += 1
            if number:
                _print_load(OURS, measured)
                ours.append(measured.per_second * BULK_ROWS)
                alone.append(calls / took * BULK_ROWS)
    what = f"one request of {BULK_ROWS} rows x {models.WIDE_FEATURES} features, against the estimator's predict alone"
    yield Row("bulk", what, "x", _ratios(ours, alone), 0.7, details={OURS: ours, "predict alone": alone})


def open_rates(bench: Bench) -> Iterator[Row]:
    """Latency at fixed rates."""
    with bench.subjects(models.GUIDE, bench.peers) as subjects:
        capacity = {each.name: load.closed_loop(each.server, each.asked, MANY, bench.seconds) for each in subjects}
        for name, measured in capacity.items():
            _print_load(f"{name}, its capacity", measured)
        best = max(_rates([capacity[each.name] for each in subjects[1:]]), default=None)
        fastest = next((each for each in subjects[1:] if capacity[each.name].per_second == best), None)
        for share in (0.5, 0.8):
            rate = capacity[OURS].per_second * share
            found = bench.by_turns(subjects[:1], partial(_open, bench, rate=rate))
            p99 = [each.p99_ms for each in found[OURS]]
            p50 = [each.p50_ms for each in found[OURS]]
            what = f"p99 at {share:.0%} of its capacity, open loop"
            yield Row("open-loop", what, "ms", p99, 10, at_most=True, details={"p50": p50, "p99": p99})
            if fastest is not None:
                yield _same_rate(bench, [subjects[0], fastest], capacity[fastest.name].per_second * share, share)


def _open(bench: Bench, subject: Subject, *, rate: float) -> Load:
    return load.open_loop(subject.server, subject.asked, rate, bench.seconds)


def _same_rate(bench: Bench, both: list[Subject], rate: float, share: float) -> Row:
    """Ask both at a rate that the peer can bear."""
    found = bench.by_turns(both, partial(_open, bench, rate=rate))
    p99 = {name: [each.p99_ms for each in loads] for name, loads in found.items()}
    what = f"p99 against that of {both[1].name}, both at {share:.0%} of the peer's capacity"
    return Row("open-loop", what, "x", _ratios(p99[OURS], p99[both[1].name]), 0.25, at_most=True, details=p99)


def logging_on(bench: Bench) -> Iterator[Row]:
    """The prediction log on, against off."""
    with bench.two(models.GUIDE, {}, {"PREDICTION_LOG": "off"}) as (subjects, _):
        alone, many = bench.throughput(subjects, 1), bench.throughput(subjects, MANY)
    p50 = [(on.p50_ms - off.p50_ms) * 1000 for on, off in zip(alone["first"], alone["second"], strict=True)]
    yield Row("log", "p50 of one connection with the log on, minus that with it off", "µs", p50, 20, at_most=True)
    rates = {"on": _rates(many["first"]), "off": _rates(many["second"])}
    what = f"throughput with the log on, against off, {MANY} connections"
    yield Row("log", what, "x", _ratios(rates["on"], rates["off"]), 0.95, details=rates)


def workers(bench: Bench) -> Iterator[Row]:
    """Two workers against one."""
    with bench.two(models.GUIDE, {"workers": 2}, {"workers": 1}) as (subjects, _):
        found = bench.throughput(subjects, MANY)
    rates = {"two": _rates(found["first"]), "one": _rates(found["second"])}
    yield Row("workers", "two workers against one", "x", _ratios(rates["two"], rates["one"]), 1.8, details=rates)


def growth(bench: Bench) -> Iterator[Row]:
    """A database that has grown, against one that is new."""
    sizes = {"grown": (200, 10_000, bench.logged), "new": (1, 1, 1)}
    case = replace(models.GUIDE, name="credit-risk")
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder, ExitStack() as stack:
        subjects = []
        for name, size in sizes.items():
            made = Installation(Path(folder) / name)
            _seed(made, *size)
            subjects.append(Subject(name, stack.enter_context(made.serving()), bench.asked(made, case)))
        found = bench.throughput(subjects, MANY)
    rates = {name: _rates(each) for name, each in found.items()}
    versions, key_count, logged = sizes["grown"]
    what = f"throughput with {logged:,} logged predictions, {key_count:,} keys and {versions} versions, against none"
    yield Row("growth", what, "x", _ratios(rates["grown"], rates["new"]), 0.95, details=rates)


def _seed(made: Installation, versions: int, key_count: int, logged: int) -> None:
    settings = config.prepare(config.load({"MODELPORT_DATA_DIR": str(made.folder / "data")}))
    db.upgrade(settings.sqlalchemy_url)
    parts: Parts = app.create_app(settings).extensions["modelport"]
    pages.seed(parts, versions, key_count, logged)
    parts.database.engine.dispose()


def starting(bench: Bench) -> Iterator[Row]:
    """A cold start, and the activation of a large model."""
    case = models.HEAVY
    made = bench.installation(models.GUIDE, case)
    made.upload(models.HEAVY_AGAIN, activate=False)
    loading = [_load_seconds(made, case) for _ in range(3)]
    size = _artifact(made, case)[1] / 1_000_000
    asked = bench.asked(made, case)
    started = []
    for _ in range(bench.rounds):
        began = time.monotonic()
        with made.serving() as server:
            server.asked(asked.path, next(asked.bodies()), asked.headers).answer()
            started.append(time.monotonic() - began)
    usual = statistics.median(loading)
    details = {"seconds": started, "loading alone": loading}
    what = f"from the start to the first prediction, beyond loading its artifact of {size:.0f} MB alone"
    yield Row("start", what, "s", [each - usual for each in started], 2, at_most=True, details=details)
    with made.serving() as server:
        yield from _activation(bench, server, asked, usual)


def _activation(bench: Bench, server: Server, heavy: Asked, loading: float) -> Iterator[Row]:
    made = bench.installation()
    quiet = bench.asked(made, models.GUIDE)
    load.closed_loop(server, quiet, 1, 1)
    idle = [latency for _, latency in load.at_rate(server, quiet, QUIET_RATE, 10)]
    times: list[tuple[float, float]] = []
    thread = threading.Thread(target=lambda: times.extend(load.at_rate(server, quiet, QUIET_RATE, 20)))
    thread.start()
    time.sleep(1)
    began = time.perf_counter()
    path = f"/models/{heavy.case.name}/activate"
    server.asked(path, json.dumps({"version": 2}).encode(), heavy.headers).answer()
    ended = time.perf_counter()
    thread.join()
    during = [latency for due, latency in times if began <= due <= ended]
    what = "the activation of that model under load, beyond loading its artifact alone"
    yield Row("start", what, "s", [ended - began - loading], 2, at_most=True, details={"loading": [loading]})
    p99 = {"during": [_p99_ms(during)], "idle": [_p99_ms(idle)]}
    added = [p99["during"][0] - p99["idle"][0]]
    yield Row(
        "start", "p99 of another model during that activation, beyond idle", "ms", added, 10, at_most=True, details=p99
    )


def _p99_ms(latencies: Sequence[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98] * 1000


def _artifact(made: Installation, case: Case) -> tuple[bytes, int]:
    settings = config.prepare(config.load({"MODELPORT_DATA_DIR": str(made.folder / "data")}))
    database = Database(settings.sqlalchemy_url)
    with database.reading() as session:
        version = registry.catalog(session).models[case.name].versions[1]
    database.engine.dispose()
    content = artifacts.opened(settings).get(version.artifact)
    return content, len(content)


def _load_seconds(made: Installation, case: Case) -> float:
    content, _ = _artifact(made, case)
    began = time.perf_counter()
    artifacts.load(content)
    return time.perf_counter() - began


GOALS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "around": around,
    "guide-16": guide_16,
    "guide-1": guide_1,
    "bulk": bulk,
    "log": logging_on,
    "workers": workers,
    "open-loop": open_rates,
    "start": starting,
    "growth": growth,
    **{
        case.name: _kind(case, wanted)
        for case, wanted in (
            (models.LINEAR, 2),
            (models.BOOSTING, 2),
            (models.HISTOGRAM, 2),
            (models.VECTORS, 1),
            (models.NEIGHBOURS, 1),
            (models.NETWORK, 1),
        )
    },
}


def machine() -> str:
    """Name the machine."""
    names = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB, Python {platform.python_version()}"


def keep(goal: str, rows: Sequence[Row]) -> None:
    """Put rows into the results in place of what they held for this goal."""
    held = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    described = [{**asdict(row), "met": row.met} for row in rows]
    held[goal] = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "rows": described}
    RESULTS.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=GOALS, help="this row; may be given again")
    parser.add_argument("--peers", nargs="*", choices=others.PEERS, help="these peers; without names, all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of one round of one server")
    parser.add_argument("--logged", type=int, default=1_000_000, help="predictions in the grown database")
    parser.add_argument("--keep", action="store_true", help=f"write {RESULTS.name}, which docs/performance.md shows")
    given = parser.parse_args()
    load.wrk_or_how()
    # So that the servers are ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    peers = [] if given.peers is None else [others.PEERS[name] for name in given.peers or others.PEERS]
    print(f"{machine()}; medians of {given.rounds} rounds of {given.seconds} s by turns, smallest and largest\n")
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), peers, given.rounds, given.seconds, given.logged)
        for goal in given.only or GOALS:
            print(f"{goal}: {GOALS[goal].__doc__ or goal}", flush=True)
            try:
                rows = list(GOALS[goal](bench))
            except Exception:  # noqa: BLE001 - whatever it is, the other rows are measured
                traceback.print_exc()
                failed.append(goal)
                continue
            for row in rows:
                print(row.line(), flush=True)
            if given.keep and rows:
                keep(goal, rows)
            print()
    if failed:
        sys.exit(f"Not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()

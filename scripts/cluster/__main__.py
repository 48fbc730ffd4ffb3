"""`make cluster`: runs the cluster until Ctrl-C, and says where it is."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from scripts import cluster as package
from scripts.cluster import REPLICAS, Cluster
from scripts.cluster.part import ADDRESS, LOOK_SECONDS, ROOT, Trouble


def _welcome(cluster: Cluster) -> None:
    first = cluster.replicas[0]
    environment = cluster.folder / "environment"
    lines = [f"export MODELPORT_{name}={shlex.quote(value)}" for name, value in first.settings.items()]
    environment.write_text("\n".join([*lines, ""]), encoding="utf-8")
    curl = first.cli("demo")["curl"].replace(first.address, f"{ADDRESS}:{cluster.nginx.port}")
    print(f"\nModelport serves on {cluster.url}, by {len(cluster.replicas)} replicas behind nginx")
    print(f"\nThe key: {cluster.key}\n\nA first prediction:\n\n  {curl}")
    print(f"\nThe admin UI: {cluster.url}/admin. A sign-in link, as every other command of this cluster:")
    print(f"\n  . {environment}; {Path(sys.executable).parent / 'modelport'} users reset-password admin")
    print(f"\nLogs and data: {cluster.folder}. Ctrl-C stops everything.", flush=True)


def _watch(cluster: Cluster) -> NoReturn:
    """Say of each part that ends by itself that it did; the others go on, as they should."""
    ended: set[str] = set()
    while True:
        time.sleep(LOOK_SECONDS)
        for part in cluster.parts:
            if not part.lives and part.name not in ended:
                ended.add(part.name)
                print(f"{part.name} has ended; its log is {part.log}", file=sys.stderr, flush=True)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "cluster", help="default: data/cluster")
    parser.add_argument("--port", type=int, default=8080, help="nginx's; 0 takes a free one; default: 8080")
    parser.add_argument("--replicas", type=int, default=REPLICAS)
    parser.add_argument("--workers", type=int, default=1, help="web workers of each replica; default: 1")
    given = parser.parse_args()
    # Both as Ctrl-C does, also where a shell that starts this in the background has it ignore that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    os.umask(0o077)
    cluster = None
    try:
        cluster = Cluster(given.folder, replicas=given.replicas, port=given.port or None, workers=given.workers)
        print("Starting PostgreSQL, Redis, the replicas, a worker and nginx …", flush=True)
        cluster.prepare()
        cluster.replicas[0].cli("demo")
        cluster.serve()
        cluster.work()
        _welcome(cluster)
        _watch(cluster)
    except Trouble as trouble:
        print(f"cluster: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        if cluster is not None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            print("Stopping …", flush=True)
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main())

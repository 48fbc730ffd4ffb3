"""nginx with the configuration that is shipped."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from scripts.cluster.part import ADDRESS, ROOT, Part, Trouble, program
from scripts.processes import free_port

CONFIGURATION = ROOT / "deploy" / "nginx"


class Nginx(Part):
    """nginx with deploy/nginx/modelport.conf, its ports, replicas and folders filled in."""

    # It answers what it has begun to answer.
    end = signal.SIGQUIT

    def __init__(self, folder: Path, addresses: list[str], *, port: int | None = None) -> None:
        """`addresses` are the replicas', as HOST:PORT. Without a port it takes a free one."""
        super().__init__("nginx", folder)
        self.own = folder / "nginx"
        self.own.mkdir(mode=0o700, exist_ok=True)
        self.port = port or free_port()
        self.url = f"http://{ADDRESS}:{self.port}"
        self.access_log = self.own / "access.log"
        temporary = "".join(
            f" {kind}_temp_path {self.own / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        types = "include /etc/nginx/mime.types;"
        self.changes = {
            "/var/log/nginx/error.log": str(self.own / "error.log"),
            "/var/log/nginx/access.log": str(self.access_log),
            "listen 80 default_server;": f"listen {ADDRESS}:{self.port} default_server;",
            "root /usr/share/modelport;": f"root {ROOT};",
            types: types + temporary,
        }
        self.write(addresses)

    def write(self, addresses: list[str]) -> None:
        """Write the configuration for these replicas; each thing to change must stand there once."""
        text = (CONFIGURATION / "modelport.conf").read_text(encoding="utf-8")
        for old, new in self.changes.items():
            if text.count(old) != 1:
                raise Trouble(f"deploy/nginx/modelport.conf has this {text.count(old)} times: {old}")
            text = text.replace(old, new)
        (self.own / "modelport.conf").write_text(text, encoding="utf-8")
        example = (CONFIGURATION / "replicas.conf").read_text(encoding="utf-8")
        lines = [line for line in example.splitlines() if line.startswith("server replica-1:8000 ")]
        filled = [line.replace("replica-1:8000", address) for line in lines for address in addresses]
        (self.own / "replicas.conf").write_text("\n".join([*filled, ""]), encoding="utf-8")

    def command(self) -> list[str]:
        """Run in the foreground, with nothing in the folders of the system's nginx."""
        here = f"daemon off; pid {self.own / 'pid'};"
        if os.getuid() == 0:
            # The files it serves may lie where only their owner can read.
            here += " user root;"
        given = ["-c", str(self.own / "modelport.conf"), "-e", str(self.own / "error.log"), "-p", str(self.own)]
        return [str(program("nginx")), *given, "-g", here]

    def answers(self) -> bool:
        """Whether it answers at all; it does so without replicas, too."""
        with suppress(OSError), socket.create_connection((ADDRESS, self.port), timeout=2):
            return True
        return False

    def entries(self) -> list[dict[str, Any]]:
        """Give the lines of the access log."""
        return [json.loads(line) for line in self.access_log.read_text(encoding="utf-8").splitlines()]

"""The settings: one frozen typed object, read once from the environment; wrong values are all reported together."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import limits

PREFIX = "MODELPORT_"
KIB = 1024
MIB = 1024 * KIB
MIN_SECRET_CHARACTERS = 32
MAX_PORT = 65_535
# What brings the package that a kind of store needs; for others it is installed by its own name.
EXTRAS = {"s3fs": 'pip install "modelport[s3]"'}


class InvalidSettings(Exception):  # noqa: N818 - it names the fact
    """One or more settings are wrong; `problems` has one sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        """Keep every problem, so that one start shows all of them."""
        super().__init__("\n".join(problems))
        self.problems = problems


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            message = f"must be a whole number from {least} to {most}"
            raise ValueError(message)
        return number

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            message = f"must be one of: {', '.join(choices)}"
            raise ValueError(message)
        return text

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            message = f"must be a number from {low:g} to {high:g}"
            raise ValueError(message)
        return number

    return parse


def _switch(text: str) -> bool:
    return _one_of("on", "off")(text) == "on"


def _bind(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        message = "must be HOST:PORT, such as 127.0.0.1:8000"
        raise ValueError(message)
    return text


def _rate_limit(text: str) -> str:
    try:
        limits.parse(text)
        if len(limits.parse_many(text)) != 1:
            raise ValueError(text)  # noqa: TRY301 - the same refusal
    except ValueError:
        message = 'must be a number per period, such as "1000/minute"'
        raise ValueError(message) from None
    return text


def _secret(text: str) -> str:
    if len(text) < MIN_SECRET_CHARACTERS:
        message = f"must have at least {MIN_SECRET_CHARACTERS} characters"
        raise ValueError(message)
    return text


def _log_share(text: str) -> float:
    """`on` is 1.0, `off` is 0.0, `sample=0.1` a tenth of the predictions."""
    shares = {"on": 1.0, "off": 0.0}
    if text in shares:
        return shares[text]
    name, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if name != "sample" or not 0 < share <= 1:
        message = "must be on, off, or sample=SHARE with a share above 0 and up to 1"
        raise ValueError(message)
    return share


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        message = f"names the home folder of a user that does not exist: {text}"
        raise ValueError(message) from None


def _optional(text: str) -> str | None:
    return text or None


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(host for host in text.replace(",", " ").split() if host)


def _redis_url(text: str) -> str | None:
    try:
        # Asking for the port is what checks it.
        usable = urlsplit(text).port != 0 and text.startswith(("redis://", "rediss://", "unix://"))
    except ValueError:
        usable = False
    if text and not usable:
        message = "must be redis://HOST:PORT/NUMBER, rediss:// of the same form, or unix://PATH"
        raise ValueError(message)
    return text or None


def artifact_place(text: str) -> str | None:
    """Give back a folder or URL where artifacts can be kept; raise `ValueError` that says why it cannot be one."""
    message = _wrong_folder(text) if "://" not in text else _wrong_store(text)
    if message:
        raise ValueError(message)
    return text or None


def _wrong_folder(text: str) -> str:
    usable = not text or text.startswith("/")
    return "" if usable else "must be an absolute folder, or a URL such as s3://BUCKET/PREFIX"


def _wrong_store(url: str) -> str:
    # Here, because its import takes a quarter of a second that only those need who keep files elsewhere.
    from fsspec.registry import known_implementations  # noqa: PLC0415

    protocol, _, place = url.partition("://")
    if protocol not in known_implementations:
        return f"names a kind of store that is not known: {protocol}"
    if not place.partition("?")[0].strip("/"):
        return f"names no place in the store, as {protocol}://BUCKET/PREFIX does"
    package = known_implementations[protocol]["class"].partition(".")[0]
    if find_spec(package) is None:
        return f"needs a package that is not installed: {EXTRAS.get(package, f'pip install {package}')}"
    return ""


def _dask_address(text: str) -> str | None:
    if text and not text.startswith(("tcp://", "tls://")):
        message = "must be tcp://HOST:PORT or tls://HOST:PORT"
        raise ValueError(message)
    return text or None


def _public_url(text: str) -> str | None:
    if text and not text.startswith(("http://", "https://")):
        message = "must begin with http:// or https://"
        raise ValueError(message)
    return text.rstrip("/") or None


def shipped(folder: str) -> Path:
    """Where a folder that comes with the product is: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).parent / folder
    return inside if inside.is_dir() else Path(__file__).parent.parent / folder


def setting(default: str | None, parse: Callable[[str], Any], about: str, *, secret: bool = False) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Declare a setting: its default as it would stand in the environment, its parser, and what it means."""
    return field(metadata={"default": default, "parse": parse, "about": about, "secret": secret})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator can choose. A field `data_dir` is read from `MODELPORT_DATA_DIR`."""

    data_dir: Path = setting("./data", _path, "Folder for the database, artifacts, spool and run files.")
    database_url: str | None = setting(
        "", _optional, "SQLAlchemy URL; empty is SQLite at DATA_DIR/modelport.db.", secret=True
    )
    artifact_store: str | None = setting(
        "",
        artifact_place,
        "Where replicas share files: a folder or a URL such as s3://BUCKET/PREFIX; empty is DATA_DIR/artifacts.",
        secret=True,
    )
    secret_key: str | None = setting(
        "",
        lambda text: _secret(text) if text else None,
        "Signs and hashes everything; at least 32 characters. Empty: made once and kept in DATA_DIR/secret-key.",
        secret=True,
    )
    bind: str = setting("127.0.0.1:8000", _bind, "Address that the web server listens on.")
    workers: int = setting(
        str(min(os.cpu_count() or 1, 8)), _whole_number(1, 64), "Web worker processes; default: cores, at most 8."
    )
    threads: int = setting("8", _whole_number(1, 128), "Threads per web worker.")
    trusted_proxies: int = setting(
        "0", _whole_number(0, 8), "Proxies in front whose X-Forwarded-* and X-Request-ID headers are believed."
    )
    public_url: str | None = setting(
        "", _public_url, "How people reach the server, such as https://ml.example.com; default: http://BIND."
    )
    trusted_hosts: tuple[str, ...] = setting(
        "", _hosts, "Host names that requests may name, separated by spaces or commas; empty: any."
    )
    second_factor: str = setting(
        "optional", _one_of("optional", "required"), "Whether people who sign in need one-time codes beside a password."
    )
    default_model: str | None = setting("", _optional, "The model that POST /predict asks when a key may use several.")
    rate_limit: str = setting("1000/minute", _rate_limit, "Limit for keys that have none of their own.")
    prediction_log: float = setting("on", _log_share, "Which predictions are logged: on, off or sample=0.1.")
    spool_max_bytes: int = setting(
        str(1024 * MIB), _whole_number(MIB, 2**50), "Most bytes the spool may hold while the database is away."
    )
    spool_full: str = setting(
        "drop-oldest",
        _one_of("drop-oldest", "refuse"),
        "What happens when the spool is full: lose the oldest log lines, or answer 503.",
    )
    cache: str = setting(
        "auto",
        _one_of("auto", "on", "off"),
        "Whether answers are kept for rows that come again; auto: where that is measured to pay.",
    )
    cache_ttl_seconds: int = setting(
        "3600", _whole_number(0, 10**7), "How long a process and a Redis each keep an answer; 0 keeps none."
    )
    redis_url: str | None = setting(
        "",
        _redis_url,
        "Redis in which replicas count limits together and share kept answers, such as redis://127.0.0.1:6379/0.",
        secret=True,
    )
    max_extra_bytes: int = setting(
        str(1024 * MIB),
        _whole_number(0, 2**44),
        "What versions that are asked for by number may take in each process, beside the active ones.",
    )
    max_body_bytes: int = setting(str(10 * MIB), _whole_number(KIB, 2**32), "Largest request body.")
    max_instances: int = setting("10000", _whole_number(1, 10**7), "Most instances in one request.")
    max_upload_bytes: int = setting(
        str(512 * MIB), _whole_number(KIB, 2**40), "Largest model file, and largest table of a batch."
    )
    max_waiting_bytes: int = setting(
        str(4096 * MIB), _whole_number(KIB, 2**44), "What uploads that wait to be inspected may fill; more are refused."
    )
    retention_days: int = setting(
        "90", _whole_number(0, 36500), "How long logged predictions and ended batches are kept; 0 keeps them for ever."
    )
    drift_tolerance: float = setting(
        "0.02",
        _number(0, 1),
        "How much inputs and outputs may change before it counts as drift, as a population stability index.",
    )
    drift_alarms_per_year: float = setting(
        "1", _number(0.001, 365), "How many false alarms of drift a year each active version may raise."
    )
    webhook_private: bool = setting(
        "off",
        _switch,
        "Whether webhooks may be on private networks and this machine, and at http:// addresses: on or off.",
    )
    batch_backend: str = setting(
        "threading",
        _one_of("threading", "loky", "dask"),
        "Where batches are computed: in threads of the worker, in processes beside it, or on a Dask cluster.",
    )
    dask_address: str | None = setting(
        "", _dask_address, "The scheduler of the Dask cluster, such as tcp://127.0.0.1:8786."
    )
    log_level: str = setting("info", _one_of("debug", "info", "warning", "error"), "Least level that is logged.")
    metrics_token: str | None = setting(
        "", _optional, "Bearer token for /metrics; without one only loopback peers may read it.", secret=True
    )

    @property
    def replica(self) -> str:
        """What this installation is called beside others: its machine, and its data directory among those there."""
        place = hashlib.sha256(bytes(self.data_dir.resolve())).hexdigest()
        return f"{socket.gethostname()}-{place[:4]}"

    @property
    def run_dir(self) -> Path:
        """Slots, generation signal, limits and metrics of this host's processes."""
        return self.data_dir / "run"

    @property
    def artifacts_dir(self) -> Path:
        """Folder of the artifacts; where they are kept elsewhere, of copies of those that were used here."""
        return self.data_dir / "artifacts"

    @property
    def spool_dir(self) -> Path:
        """Folder of this host's spool."""
        return self.data_dir / "spool"

    @property
    def quarantine_dir(self) -> Path:
        """Folder of uploaded files that have not been inspected."""
        return self.data_dir / "quarantine"

    @property
    def url(self) -> str:
        """How people reach the server, without a slash at the end."""
        return self.public_url or f"http://{self.bind}"

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'modelport.db'}"

    def derive(self, purpose: str) -> bytes:
        """Give a 256-bit key for one purpose, so that no two uses share the secret itself."""
        if self.secret_key is None:
            message = "settings without a secret key: call config.prepare first"
            raise RuntimeError(message)
        return hmac.digest(self.secret_key.encode(), purpose.encode(), hashlib.sha256)


def _raw(environ: Mapping[str, str], item: Field[Any]) -> str:
    name = PREFIX + item.name.upper()
    file = environ.get(f"{name}_FILE") if item.metadata["secret"] else None
    if file is None:
        return environ.get(name, item.metadata["default"])
    if name in environ:
        message = f"is given twice, also as {name}_FILE; keep one"
        raise ValueError(message)
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        message = f"names a file that cannot be read ({error.strerror}): {file}"
        raise ValueError(message) from None


def _unknown(environ: Mapping[str, str]) -> list[str]:
    known = {PREFIX + item.name.upper() for item in fields(Settings)}
    known |= {f"{PREFIX}{item.name.upper()}_FILE" for item in fields(Settings) if item.metadata["secret"]}
    strangers = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    return [f"{name} is not a setting; docs/configuration.md lists them all" for name in strangers]


def _without_cluster(values: Mapping[str, Any]) -> Iterator[str]:
    """Say what is missing where batches are to be computed on a Dask cluster."""
    if values.get("batch_backend") == "dask":
        if find_spec("distributed") is None:
            yield f'{PREFIX}BATCH_BACKEND needs a package that is not installed: pip install "modelport[dask]"'
        if values.get("dask_address", "") is None:
            yield f"{PREFIX}DASK_ADDRESS is missing: with {PREFIX}BATCH_BACKEND=dask it names the cluster's scheduler"


def load(environ: Mapping[str, str]) -> Settings:
    """Read every setting from `environ`; raise `InvalidSettings` that names all wrong ones."""
    values: dict[str, Any] = {}
    problems = _unknown(environ)
    for item in fields(Settings):
        try:
            values[item.name] = item.metadata["parse"](_raw(environ, item))
        except ValueError as error:
            problems.append(f"{PREFIX}{item.name.upper()} {error}")
    problems += _without_cluster(values)
    if problems:
        raise InvalidSettings(problems)
    return Settings(**values)


def describe(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Give each setting as it could be given again, and its source; what is secret is masked."""
    load(environ)
    shown = {}
    for item in fields(Settings):
        name = PREFIX + item.name.upper()
        source = "environment" if name in environ else "file" if f"{name}_FILE" in environ else "default"
        masked = item.metadata["secret"] and source != "default"
        shown[name] = {"value": "(set)" if masked else _raw(environ, item), "source": source}
    return shown


def _kept_secret(path: Path) -> str:
    """Read the secret of this installation, made once. It appears whole: two first starts agree on one."""
    if not path.exists():
        # The file is 0600 from its beginning, and gets its name when all of it is on the disk.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(file.name, path)
    return _secret(path.read_text(encoding="ascii"))


def prepare(settings: Settings) -> Settings:
    """Make the data directory and the secret where they are missing; the settings returned are complete."""
    try:
        for folder in (settings.data_dir, settings.run_dir, settings.run_dir / "metrics"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = settings.secret_key or _kept_secret(settings.data_dir / "secret-key")
        probe = settings.run_dir / f"writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        problem = f"{PREFIX}DATA_DIR cannot be used ({error.strerror}): {error.filename or settings.data_dir}"
        raise InvalidSettings([problem]) from None
    except ValueError as error:
        raise InvalidSettings([f"{settings.data_dir / 'secret-key'} {error}"]) from None
    return replace(settings, secret_key=secret)

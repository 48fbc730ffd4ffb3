"""Tests of what is in deploy/: it names settings, commands, ports and paths that are there, and is locked up."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from flask import Flask
from werkzeug.serving import make_server

from webapp import __version__, config, supervisor
from webapp.app import create_app
from webapp.cli import main
from webapp.config import PREFIX, InvalidSettings, Settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
KUBERNETES = DEPLOY / "kubernetes"
# The oldest that the manifests are for, and the newest that there is.
RELEASES = ("1.30", kubernetes_validate.latest_version())
PROXY_SECONDS = 5
GIB = 1024**3
UNITS = {"": 1, "m": 1024**2, "g": GIB, "Mi": 1024**2, "Gi": GIB}

SECRETS = {item.name for item in fields(Settings) if item.metadata["secret"]}


def in_bytes(text: str) -> int:
    """Read a size as Compose and Kubernetes write it."""
    found = re.fullmatch(r"(\d+)(\w*)", text)
    assert found, text
    return int(found[1]) * UNITS[found[2]]


def environ(given: dict[str, str], folder: Path, **contents: str) -> dict[str, str]:
    """Give an environment whose files of secrets are there, with contents that are accepted."""
    made = {}
    for name, value in given.items():
        if name.endswith("_FILE"):
            file = folder / name
            setting = name.removeprefix(PREFIX).removesuffix("_FILE").lower()
            file.write_text(contents.get(setting, "redis://redis:6379/0 " + "x" * config.MIN_SECRET_CHARACTERS))
            made[name] = str(file)
        else:
            made[name] = value
    return made


def accepted(given: dict[str, str], folder: Path) -> Settings:
    """Read settings as a process would that is given them; an unknown name or a wrong value fails."""
    return config.load(environ(given, folder, redis_url="redis://redis:6379/0"))


def is_command(arguments: list[str]) -> bool:
    """Whether `modelport` knows these arguments."""
    command: click.Command | None = main
    rest = list(arguments)
    while rest and isinstance(command, click.Group):
        command = command.get_command(click.Context(main), rest.pop(0))
    try:
        return command is not None and bool(command.make_context("modelport", rest))
    except click.UsageError:
        return False


@pytest.fixture
def paths(settings: Settings) -> set[str]:
    """Every path without parameters that the application answers."""
    return {rule.rule for rule in create_app(settings).url_map.iter_rules()}


# --- The image ----------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Give the Dockerfile's instructions, each on one line."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def instruction(name: str) -> str:
    """Give what an instruction of the last stage says."""
    return [rest for each, rest in instructions() if each == name][-1]


def image_environ() -> dict[str, str]:
    """Give the variables that the image sets."""
    return dict(pair.split("=", 1) for pair in shlex.split(instruction("ENV")))


def test_the_dockerfile_passes_its_linter() -> None:
    done = subprocess.run([Path(sys.executable).parent / "hadolint", DOCKERFILE], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_the_image_sets_settings_that_are_there_and_listens_on_the_port_that_it_exposes(tmp_path: Path) -> None:
    given = {name: value for name, value in image_environ().items() if name.startswith(PREFIX)}
    settings = accepted(given, tmp_path)
    assert settings.bind == f"0.0.0.0:{instruction('EXPOSE')}"
    assert str(settings.data_dir) == instruction("VOLUME") == instruction("WORKDIR")


def test_the_image_runs_as_a_number_and_its_process_is_the_one_that_gets_the_signal() -> None:
    user, group = map(int, instruction("USER").split(":"))
    assert user > 0
    assert group > 0
    assert f"install -d -o {user} -g {group} -m 0700 {instruction('VOLUME')}" in instruction("RUN")
    # In brackets: no shell stands between the signal and the supervisor.
    assert yaml.safe_load(instruction("ENTRYPOINT")) == ["modelport"]
    assert is_command(yaml.safe_load(instruction("CMD")))
    assert instruction("STOPSIGNAL") == "SIGTERM"
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")


@contextmanager
def listening(app: Flask) -> Iterator[int]:
    """Let an application answer on a port of loopback."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(settings: Settings) -> None:
    _, option, script = yaml.safe_load(instruction("HEALTHCHECK").partition("CMD ")[2])
    path = f":{instruction('EXPOSE')}/livez"
    assert option == "-c"
    assert path in script

    def is_healthy(port: int, asked: str = "/livez") -> bool:
        command = [sys.executable, "-c", script.replace(path, f":{port}{asked}")]
        # A proxy that the environment names is not asked for what is inside the container.
        environment = {"http_proxy": "http://127.0.0.1:1"}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    with listening(create_app(settings)) as port:
        assert is_healthy(port)
        # Nothing is loaded here.
        assert not is_healthy(port, "/readyz")
    assert not is_healthy(port)


def test_everything_that_the_image_is_made_of_passes_the_list_of_what_is_sent_to_its_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")]
    for source in (part.replace("${REQUIREMENTS}", "*") for parts in copied for part in parts):
        assert any(fnmatch(source, each) for each in sent), source
        assert list(ROOT.glob(source)), source
    assert not sent & {"data", ".git", "tests", "deploy"}


def test_what_builds_the_wheel_is_locked_as_for_development() -> None:
    packages = re.compile(r"^([a-z0-9-]+==\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)
    chosen = dict(packages.findall((ROOT / "requirements" / "build.txt").read_text()))
    locked = dict(packages.findall((ROOT / "requirements" / "dev.txt").read_text()))
    assert any(name.startswith("hatchling==") for name in chosen)
    assert {name: locked.get(name) for name in chosen} == chosen


# The others are for development, to build the wheel, and for what is installed beside.
LOCKS = [path.stem for path in (ROOT / "requirements").glob("*.txt") if path.stem not in {"build", "dev", "parquet"}]


@pytest.mark.parametrize("lock", LOCKS)
def test_each_lock_of_an_image_holds_what_replicas_need(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    for package in ("psycopg-binary", "redis", "s3fs", "distributed", "gunicorn"):
        assert re.search(rf"^{package}==", text, re.MULTILINE), package


def test_the_folder_that_is_compiled_is_that_of_the_base_images_python() -> None:
    version = re.search(r"python:(3\.\d+)-", DOCKERFILE.read_text())
    assert version
    assert f"/usr/local/lib/python{version[1]} " in instruction("RUN")


# --- Compose ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """What `docker compose` would read."""
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    return read


def replicas(compose: dict[str, Any]) -> dict[str, Any]:
    """Give the services that serve."""
    return {name: each for name, each in compose["services"].items() if each.get("command", [""])[0] == "serve"}


def ours(compose: dict[str, Any]) -> dict[str, Any]:
    """Give the services that run our image."""
    return {name: each for name, each in compose["services"].items() if each["image"] == "modelport"}


def seconds(text: str) -> int:
    """Read a time of Compose."""
    return int(text.removesuffix("s"))


def test_compose_gives_settings_that_are_accepted_and_commands_that_are_there(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    for name, service in ours(compose).items():
        settings = accepted(service["environment"], tmp_path)
        assert settings.trusted_proxies == 1
        assert settings.artifact_store == "/artifacts"
        assert is_command(service["command"]), name


def test_compose_has_three_replicas_each_with_a_name_and_a_volume_of_its_own(compose: dict[str, Any]) -> None:
    found = replicas(compose)
    assert len(found) == 3
    assert {each["hostname"] for each in found.values()} == set(found)
    mounts = [dict(volume.split(":")[:2] for volume in each["volumes"]) for each in found.values()]
    volumes = [volume for mount in mounts for volume, place in mount.items() if place == "/data"]
    assert len(set(volumes)) == 3
    assert set(volumes) < set(compose["volumes"])


def test_nginx_asks_the_replicas_that_compose_has_on_the_port_of_the_image(compose: dict[str, Any]) -> None:
    asked = set(re.findall(r"^server (\S+) ", (DEPLOY / "nginx" / "replicas.conf").read_text(), re.MULTILINE))
    assert asked == {f"{name}:{instruction('EXPOSE')}" for name in replicas(compose)}
    nginx = compose["services"]["nginx"]
    assert set(nginx["depends_on"]) == set(replicas(compose))
    (published,) = nginx["ports"]
    assert re.search(
        rf"^\s*listen {published.split(':')[-1]} ", (DEPLOY / "nginx" / "modelport.conf").read_text(), re.MULTILINE
    )


def test_what_compose_mounts_from_the_repository_is_there(compose: dict[str, Any]) -> None:
    for volume in compose["services"]["nginx"]["volumes"]:
        source, _, option = volume.split(":")
        assert (DEPLOY / "compose" / source).exists(), source
        assert option == "ro"
    build = ours(compose)["replica-1"]["build"]
    assert (DEPLOY / "compose" / build["context"]).resolve() == ROOT
    assert ROOT / build["dockerfile"] == DOCKERFILE


def test_only_nginx_is_reached_from_outside_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    services = compose["services"]
    published = {name: each["ports"] for name, each in services.items() if "ports" in each}
    assert published == {"nginx": ["127.0.0.1:8080:80"]}
    assert compose["networks"]["back"] == {"internal": True}
    assert {name for name, each in services.items() if "front" in each["networks"]} == {"nginx"}


def test_every_container_is_locked_up_and_no_secret_stands_in_the_file(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        # Our image says itself as whom it runs.
        assert service["image"] == "modelport" or int(service["user"].split(":")[0]) > 0, name
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        named = {key.removeprefix(PREFIX).lower() for key in service.get("environment", {}) if key.startswith(PREFIX)}
        # Where Redis and the store are is none, as long as it holds no password.
        assert not named & (SECRETS - {"redis_url", "artifact_store"}), name


def test_replicas_start_when_the_migration_has_ended_and_may_take_their_time_to_stop(compose: dict[str, Any]) -> None:
    assert ours(compose)["migration"]["command"] == ["db", "upgrade"]
    assert ours(compose)["migration"]["restart"] == "no"
    for name, service in ours(compose).items():
        assert seconds(service["stop_grace_period"]) >= 2 * supervisor.STOP_SECONDS, name
        if name != "migration":
            assert service["depends_on"]["migration"] == {"condition": "service_completed_successfully"}, name
            assert service["depends_on"]["postgres"] == {"condition": "service_healthy"}, name


# --- Kubernetes ---------------------------------------------------------------------------------------------


@cache
def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Give every manifest, with the name of its file."""
    return [
        (file.name, document)
        for file in sorted(KUBERNETES.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
        if document["kind"] != "Kustomization"
    ]


def one(kind: str, name: str = "modelport") -> dict[str, Any]:
    """Give a manifest."""
    (found,) = [each for _, each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """Give what each kind of pod is made of."""
    templates = (each for _, each in manifests() if "template" in each.get("spec", {}))
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in templates}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Give all containers of a pod."""
    found: list[dict[str, Any]] = [*pod.get("initContainers", []), *pod["containers"]]
    return found


@pytest.mark.parametrize("release", RELEASES)
def test_every_manifest_is_valid(release: str) -> None:
    for file, document in manifests():
        assert kubernetes_validate.validate(document, release, strict=True), file


def test_the_kustomization_lists_every_file_but_the_examples_and_names_this_release() -> None:
    read = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(read["resources"]) == {name for name in files if not name.endswith(".example.yaml")}
    assert [(each["name"], each["newTag"]) for each in read["images"]] == [("modelport", __version__)]
    for name, pod in pods().items():
        assert {each["image"] for each in containers(pod)} == {"modelport"}, name


def test_the_cluster_gives_settings_that_are_accepted_from_secrets_that_the_example_has(tmp_path: Path) -> None:
    given = one("ConfigMap")["data"]
    settings = accepted(given, tmp_path)
    assert settings.trusted_proxies == 1
    kept = {name: Path(value) for name, value in given.items() if name.endswith("_FILE")}
    assert {path.name for path in kept.values()} == set(one("Secret")["stringData"])
    for name, pod in pods().items():
        for container in containers(pod):
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert {str(path.parent) for path in kept.values()} == {mounts["secrets"]}, name
            assert mounts["data"] == instruction("VOLUME"), name
            assert {"configMapRef": {"name": "modelport"}} in container["envFrom"], name


def test_modelport_refuses_to_start_with_the_secrets_of_the_example(tmp_path: Path) -> None:
    examples = {name.replace("-", "_"): value for name, value in one("Secret")["stringData"].items()}
    with pytest.raises(InvalidSettings) as refusal:
        config.load(environ(one("ConfigMap")["data"], tmp_path, **examples))
    assert f"{PREFIX}SECRET_KEY must have at least" in str(refusal.value)


def test_no_variable_that_the_cluster_adds_can_look_like_a_setting() -> None:
    for name, pod in pods().items():
        # A service called modelport would else give each pod MODELPORT_PORT, and Modelport would refuse to start.
        assert pod["enableServiceLinks"] is False, name


def test_every_pod_is_locked_up() -> None:
    assert one("Namespace")["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    user, group = map(int, instruction("USER").split(":"))
    for name, pod in pods().items():
        assert pod["automountServiceAccountToken"] is False, name
        context = pod["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (user, group, group), name
        assert context["runAsNonRoot"] is True, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_every_container_runs_a_command_that_is_there() -> None:
    for name, pod in pods().items():
        for container in containers(pod):
            command = container.get("command", [])
            arguments = command[command.index("modelport") + 1 :] if command else container["args"]
            assert is_command(arguments), name


def test_the_probes_ask_paths_that_are_there_on_the_port_of_the_image(paths: set[str]) -> None:
    (container,) = pods()["modelport"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": int(instruction("EXPOSE"))}]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert {probe["path"] for probe in probes.values()} <= paths
    assert probes["livenessProbe"]["path"] == "/livez"
    assert probes["readinessProbe"]["path"] == "/readyz"
    for name in ("modelport", "modelport-replicas"):
        assert [port["targetPort"] for port in one("Service", name)["spec"]["ports"]] == ["http"]


def test_a_replica_has_the_guides_resources_and_settings_that_fit_into_them(tmp_path: Path) -> None:
    (container,) = pods()["modelport"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "500m", "memory": "512Mi"},
        "limits": {"cpu": "1000m", "memory": "1Gi"},
    }
    settings = accepted(one("ConfigMap")["data"], tmp_path)
    assert settings.workers * settings.max_extra_bytes <= GIB // 4
    (claim,) = one("StatefulSet")["spec"]["volumeClaimTemplates"]
    volume = in_bytes(claim["spec"]["resources"]["requests"]["storage"])
    assert settings.spool_max_bytes + settings.max_waiting_bytes <= volume // 2


def test_what_stops_has_the_time_to_answer_and_to_drain() -> None:
    for name in ("modelport", "modelport-worker", "modelport-drain-2"):
        pod = pods()[name]
        waits = [each["lifecycle"]["preStop"]["sleep"]["seconds"] for each in containers(pod) if "lifecycle" in each]
        assert pod["terminationGracePeriodSeconds"] >= sum(waits) + 2 * supervisor.STOP_SECONDS, name
    assert pods()["modelport"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] >= PROXY_SECONDS


def test_what_a_replica_has_not_logged_stays_on_its_volume_when_it_goes() -> None:
    replica = one("StatefulSet")["spec"]
    assert replica["persistentVolumeClaimRetentionPolicy"] == {"whenScaled": "Retain", "whenDeleted": "Retain"}
    (claim,) = replica["volumeClaimTemplates"]
    mounted = {mount["name"]: mount["mountPath"] for mount in pods()["modelport"]["containers"][0]["volumeMounts"]}
    assert mounted[claim["metadata"]["name"]] == instruction("VOLUME")
    # A worker's volume is taken over by the next one, under the same name.
    assert one("Deployment", "modelport-worker")["spec"]["strategy"] == {"type": "Recreate"}
    assert pods()["modelport-worker"]["hostname"] == "modelport-worker"
    # One that nobody takes over is drained under the name of the replica that left it.
    drain = pods()["modelport-drain-2"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in drain["volumes"] if volume["name"] == "data"]
    assert claims == [f"{claim['metadata']['name']}-{drain['hostname']}"]


def test_the_autoscaler_and_the_budget_are_for_the_replicas() -> None:
    scaler = one("HorizontalPodAutoscaler")["spec"]
    target = scaler["scaleTargetRef"]
    assert one(target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 10)
    assert [each["resource"]["name"] for each in scaler["metrics"]] == ["cpu"]
    # Else each new release would set the number back.
    assert "replicas" not in one("StatefulSet")["spec"]
    labels = one("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    for name in ("modelport", "modelport-replicas"):
        assert one("Service", name)["spec"]["selector"] == labels


def test_nothing_is_reached_that_no_policy_names() -> None:
    nothing = one("NetworkPolicy", "nothing")["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    replica = one("NetworkPolicy", "to-replicas")["spec"]
    assert replica["podSelector"]["matchLabels"] == one("StatefulSet")["spec"]["selector"]["matchLabels"]
    assert [rule["ports"] for rule in replica["ingress"]] == [[{"protocol": "TCP", "port": "http"}]]
    chosen = one("NetworkPolicy", "from-modelport")["spec"]["podSelector"]["matchLabels"]
    for _, document in manifests():
        if template := document.get("spec", {}).get("template"):
            assert chosen.items() <= template["metadata"]["labels"].items(), document["metadata"]["name"]


def test_the_ingress_lets_bodies_through_that_modelport_takes_and_gives_each_request_its_id() -> None:
    ingress = one("Ingress")
    notes = {name.removeprefix("nginx.org/"): value for name, value in ingress["metadata"]["annotations"].items()}
    assert in_bytes(notes["client-max-body-size"]) > config.load({}).max_upload_bytes
    assert "X-Request-ID $request_id;" in notes["location-snippets"]
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = path["backend"]["service"]
    assert service["port"]["name"] in {port["name"] for port in one("Service", service["name"])["spec"]["ports"]}
    assert accepted_url() == f"https://{rule['host']}"


def accepted_url() -> str:
    """Give how people are told to reach the cluster."""
    url: str = one("ConfigMap")["data"]["MODELPORT_PUBLIC_URL"]
    return url


# --- All of it ----------------------------------------------------------------------------------------------


def test_no_file_names_a_registry() -> None:
    registry = re.compile(r"pypi|pythonhosted|docker\.io|ghcr|quay|gcr\.io|index-url")
    for path in (DEPLOY, *DEPLOY.rglob("*")):
        if path.is_file():
            assert not registry.search(path.read_text()), path

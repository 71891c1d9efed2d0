"""The containers are described in files that no interpreter reads before a deploy: what can be held of them is, here.

They are read as text, not as YAML: what is looked for is what a reader of the files would look for.
"""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import databases
from dev import temporal
from dev.temporal import SEARCH_ATTRIBUTES, TUNING
from settings import Settings, names

ROOT = Path(__file__).parents[2]

each_file = pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.dev.yml"])


def read(file: str) -> str:
    """The file without its comments."""
    return re.sub(r"^\s*#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE)


def services(file: str) -> dict[str, str]:
    """What is said of each service, in this file and in the one that it extends."""
    (section,) = re.findall(r"^services:\n(.*?)(?=^\S|\Z)", read(file), flags=re.MULTILINE | re.DOTALL)
    _, *parts = re.split(r"^  ([\w-]+):\n", section, flags=re.MULTILINE)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    for name, said in found.items():
        if extended := re.search(r"extends: {file: (\S+), service: (\S+)}", said):
            found[name] = said + services(extended[1])[extended[2]]
    return found


def waited_for(file: str, condition: str) -> set[str]:
    return set(re.findall(rf"(\S+): {{condition: {condition}}}", read(file)))


@each_file
def test_every_setting_that_is_set_exists(file: str) -> None:
    assert set(re.findall(r"\bWAYBILL_\w+", read(file))) <= set(names())


def given(service: str) -> set[str]:
    """The variables that a service gets, those of what its environment is made of included."""
    sections = dict(
        re.findall(r"^x-[\w-]+: &(\S+)\n(.*?)(?=^\S|\Z)", read("docker-compose.yml"), re.MULTILINE | re.DOTALL)
    )
    (said,) = re.findall(
        r"^    environment:(.*?)(?=^    \S|\Z)", services("docker-compose.yml")[service], re.MULTILINE | re.DOTALL
    )
    while included := re.search(r"(?:<<: )?\*(environment|process)\b", said):
        said = said.replace(included[0], sections[included[1]])
    return set(re.findall(r"^ +([A-Z]\w+):", said, re.MULTILINE))


def test_every_setting_can_be_set_and_reaches_who_reads_it() -> None:
    # Where the command line sends its own requests, and with which key.
    of_the_command_line = {"WAYBILL_API_URL", "WAYBILL_API_KEY"}
    of_workers = {name for name in names() if re.match(r"WAYBILL_(WORKER|PROJECTION|METRICS|CLAIM|SNAPSHOT)", name)}
    assert given("api") | given("worker") >= {*names()} - of_the_command_line
    assert of_workers <= given("worker")
    assert not of_workers & given("api")


def test_nobody_is_given_what_he_has_no_use_for() -> None:
    assert "env_file" not in read("docker-compose.yml") + read("docker-compose.dev.yml")
    secrets = {"WAYBILL_API_KEYS", "WAYBILL_PAYLOAD_KEYS", "PGPASSWORD", "OTEL_EXPORTER_OTLP_HEADERS"}
    foreign = {
        "METRICS_KEY",
        "GRAFANA_PASSWORD",
        "POSTGRES_PASSWORD",
        "DATABASE_PASSWORD",
        "TEMPORAL_DATABASE_PASSWORD",
    }
    assert given("api") & (secrets | foreign) == secrets
    assert given("worker") & (secrets | foreign) == secrets - {"WAYBILL_API_KEYS"}
    assert given("migrate") & (secrets | foreign) == {"PGPASSWORD"}


@each_file
def test_every_image_is_pinned_and_its_version_can_be_chosen(file: str) -> None:
    images = re.findall(r"^ +image: (\S+)$", read(file), flags=re.MULTILINE)
    assert images
    for image in images:
        tag = re.fullmatch(r"[a-z/-]+:v?\$\{[A-Z_]+_VERSION:-(?P<tag>[\d.]+)\}|\$\{IMAGE:-waybill:local\}", image)
        assert tag, f"{image} moves"
        assert "auto-setup" not in image


def test_the_tests_run_against_the_postgresql_that_is_deployed() -> None:
    assert f"postgres:${{POSTGRES_VERSION:-{databases.VERSION}}}" in read("docker-compose.yml")


@each_file
def test_ports_are_published_on_loopback_only(file: str) -> None:
    published = re.findall(r"^ +ports:\n((?: +- .*\n)+)", read(file), flags=re.MULTILINE)
    ports = [port.strip(" -") for block in published for port in block.splitlines()]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@each_file
def test_who_listens_on_all_addresses_does_not_start_without_keys(file: str) -> None:
    listening = {name: said for name, said in services(file).items() if "WAYBILL_API_HOST: 0.0.0.0" in said}
    assert listening.keys() == {"api"}
    for said in listening.values():
        assert re.search(r"^ +WAYBILL_API_KEYS: \$\{WAYBILL_API_KEYS:\?.+\}$", said, re.MULTILINE)


@each_file
def test_every_service_tells_its_health_or_runs_once(file: str) -> None:
    once = waited_for(file, "service_completed_successfully")
    for name, said in services(file).items():
        assert ("healthcheck:" in said) != (name in once), name


@each_file
def test_who_is_waited_for_until_healthy_has_a_health_check(file: str) -> None:
    healthy = {name for name, said in services(file).items() if "healthcheck:" in said}
    assert waited_for(file, "service_healthy") <= healthy


@each_file
def test_there_may_be_many_workers(file: str) -> None:
    worker = services(file)["worker"]
    assert "ports:" not in worker
    assert "container_name:" not in read(file)


@each_file
def test_a_stopped_worker_has_the_time_to_finish_its_steps(file: str) -> None:
    grace = re.search(r"stop_grace_period: (\d+)s", services(file)["worker"])
    assert grace
    assert int(grace[1]) > Settings.model_fields["worker_shutdown_timeout"].default


def test_the_development_server_is_tuned_like_that_of_waybill_dev() -> None:
    server = services("docker-compose.dev.yml")["temporal"]
    for name, value in temporal.GARBAGE_COLLECTION.items():
        assert re.search(rf'{name}: "?{value}"?$', server, re.MULTILINE)
    flags = set(re.findall(r"--\S+", server))
    assert {f"{flag}={value}" for flag, value in zip(TUNING[::2], TUNING[1::2], strict=True)} <= flags


def test_the_server_has_the_same_dynamic_configuration() -> None:
    configured = re.findall(r"^(\S+):\n  - value: (\S+)$", read("docker/temporal/dynamic-config.yaml"), re.MULTILINE)
    wanted = [value for flag, value in zip(TUNING[::2], TUNING[1::2], strict=True) if "dynamic-config" in flag]
    assert sorted(f"{name}={value}" for name, value in configured) == sorted(wanted)


def test_both_ways_register_the_search_attributes() -> None:
    assert f"for name in {' '.join(SEARCH_ATTRIBUTES)}; do" in read("docker/temporal/namespace.sh")
    development = services("docker-compose.dev.yml")["temporal"]
    assert re.findall(r"--search-attribute=(\w+)=Keyword", development) == [*SEARCH_ATTRIBUTES]


def test_the_image_is_made_of_everything_that_the_package_is_made_of() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for part in package["only-include"]:
        assert f"!{part}" in allowed or ("!*.py" in allowed and part.endswith(".py")), part


def test_the_image_is_built_with_all_that_the_build_backend_needs() -> None:
    needed: set[str] = set()
    waiting = ["hatchling"]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        requirements = [Requirement(text) for text in requires(name) or []]
        applying = {each.name for each in requirements if not each.marker or each.marker.evaluate({"extra": ""})}
        waiting += applying - needed
    named = re.search(r"\^\(([\w|-]+)\)==", read("Dockerfile"))
    assert named
    assert set(named[1].split("|")) == needed

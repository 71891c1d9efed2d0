import re
from itertools import pairwise
from pathlib import Path

import pytest

import settings
from settings import Settings, SettingsError

EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in settings.names():
        monkeypatch.delenv(name, raising=False)


def example() -> dict[str, str | None]:
    """Every name in .env.example with its value; None where the line is commented out."""
    lines = re.findall(r"^(#?)([A-Z][A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    return {name: None if unset else value for unset, name, value in lines}


def test_the_example_names_every_setting():
    named = {name for name in example() if name.startswith(settings.PREFIX)}

    assert named - {"WAYBILL_POSTGRES_BIN", "WAYBILL_TEMPORAL_BIN", "WAYBILL_TEST_POSTGRES"} == set(settings.names())


def test_the_example_shows_the_defaults(monkeypatch):
    for name, value in example().items():
        if value is not None:
            monkeypatch.setenv(name, value)

    assert settings.load() == Settings.model_construct()


def test_only_settings_without_a_default_are_left_out_of_the_example():
    fields = Settings.model_fields
    left_out = {name for name, value in example().items() if value is None and name in settings.names()}

    assert left_out == {settings.PREFIX + name.upper() for name in fields if fields[name].default is None}


def test_the_example_explains_each_setting():
    lines = EXAMPLE.read_text().splitlines()

    assert [line for before, line in pairwise(lines) if "WAYBILL_" in line[:9] and not before.startswith("# ")] == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("WAYBILL_API_PROT", "WAYBILL_API_PORT"),
        ("WAYBILL_EVENTSTORE_URL", "WAYBILL_EVENT_STORE_URL"),
        ("WAYBILL_SNAPSHOTS_EVERY", "WAYBILL_SNAPSHOT_EVERY"),
        ("WAYBILL_POSTGRESS_BIN", "WAYBILL_POSTGRES_BIN"),
    ],
)
def test_a_misspelt_name_is_an_error_that_suggests_the_right_one(monkeypatch, wrong, right):
    monkeypatch.setenv(wrong, "1")

    with pytest.raises(SettingsError, match=f"^{wrong} is not a setting: did you mean {right}\\?$"):
        settings.load()


def test_a_name_that_resembles_nothing_is_an_error_that_says_where_the_names_are(monkeypatch):
    monkeypatch.setenv("WAYBILL_XYZZY", "1")

    with pytest.raises(SettingsError, match=r"^WAYBILL_XYZZY is not a setting: \.env\.example lists them all$"):
        settings.load()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("WAYBILL_API_PORT", "70000", "less than or equal to 65535"),
        ("WAYBILL_EVENT_STORE_URL", "mysql://localhost/x", "must begin with postgresql://"),
        ("WAYBILL_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("WAYBILL_POOL_SIZE", "0", "greater than 0"),
        ("WAYBILL_SNAPSHOT_EVERY", "often", "valid"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_setting(monkeypatch, name, value, why):
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=f"^{name}: .*{why}"):
        settings.load()


def test_what_the_tests_and_the_development_stack_read_is_no_unknown_setting(monkeypatch):
    monkeypatch.setenv("WAYBILL_TEMPORAL_BIN", "/opt/temporal")
    monkeypatch.setenv("WAYBILL_TEST_POSTGRES", "docker")

    assert settings.load() == Settings.model_construct()


@pytest.mark.parametrize(
    ("value", "order", "shipment"), [("7", 7, 7), ('{"Order": 1}', 1, 0), ('{"Order": 5, "Shipment": 9}', 5, 9)]
)
def test_the_interval_of_snapshots_is_one_for_all_or_one_for_each_aggregate(monkeypatch, value, order, shipment):
    monkeypatch.setenv("WAYBILL_SNAPSHOT_EVERY", value)
    loaded = settings.load()

    assert (loaded.snapshot_interval("Order"), loaded.snapshot_interval("Shipment")) == (order, shipment)


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ("", ()),
        ("https://desk.example.com", ("https://desk.example.com",)),
        ("http://localhost:5173, https://a.example", ("http://localhost:5173", "https://a.example")),
    ],
)
def test_origins_are_listed_with_commas(monkeypatch: pytest.MonkeyPatch, given: str, origins: tuple[str, ...]) -> None:
    monkeypatch.setenv("WAYBILL_CORS_ORIGINS", given)
    assert settings.load().cors_origins == origins


@pytest.mark.parametrize("given", ["*", "desk.example.com", "https://desk.example.com/", "null", "https://a b"])
def test_an_origin_is_a_scheme_and_a_host(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("WAYBILL_CORS_ORIGINS", given)
    with pytest.raises(SettingsError, match=r"WAYBILL_CORS_ORIGINS: .* must be origins such as"):
        settings.load()


def test_a_versioned_worker_has_a_deployment_name_and_a_build_id(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().worker_version is None
    monkeypatch.setenv("WAYBILL_DEPLOYMENT_NAME", "waybill")
    monkeypatch.setenv("WAYBILL_BUILD_ID", "2026-11-25.1")
    assert settings.load().worker_version == ("waybill", "2026-11-25.1")


@pytest.mark.parametrize("name", ["WAYBILL_DEPLOYMENT_NAME", "WAYBILL_BUILD_ID"])
def test_a_version_that_is_told_by_half_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "waybill")
    with pytest.raises(SettingsError, match="WAYBILL_DEPLOYMENT_NAME and WAYBILL_BUILD_ID have to be set together"):
        settings.load()

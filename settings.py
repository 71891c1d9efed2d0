"""Waybill's settings: environment variables with the prefix WAYBILL_, all of them listed in .env.example.

Temporal's own (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS_*, profiles) are read by
temporalio.envconfig; `temporal` says what it made of them.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from api.keys import ApiKey
from api.keys import parse as parse_keys
from workflows.payload_keys import PayloadKey
from workflows.payload_keys import parse as parse_payload_keys

PREFIX = "WAYBILL_"
# Read by the tests, by the dev stack or by make, not by the processes.
_FOREIGN = {"WAYBILL_TEMPORAL_BIN", "WAYBILL_POSTGRES_BIN"}
_FOREIGN_PREFIXES = ("WAYBILL_TEST_", "WAYBILL_BENCH_")
_TEMPORAL_ADDRESS = "localhost:7233"
_PLACE = re.compile(r"(\[[0-9a-f:.]*\]|[^\[\]:]*)(:\d{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?")


class SettingsError(Exception):
    """A setting is wrong: the message says which, and what it should be."""


class Settings(BaseSettings):
    """How this process runs. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False
    )

    event_store_url: str = Field(default="postgresql://localhost:5432/event_store")
    """The database of events, claims and blocked products."""
    read_store_url: str = Field(default="postgresql://localhost:5432/read_store")
    """The database of the read models; it may be on another server."""
    pool_size: PositiveInt = 10
    """Connections to each database that one process may hold."""
    start_timeout: float = Field(default=30, ge=0)
    """How long a worker or a gateway that starts waits for each of them, before it gives up."""

    task_queue: str = Field(default="waybill", min_length=1)
    order_idle_timeout: PositiveFloat = 24 * 3600
    """An order without work ends its run after this time; the next command revives it from the event store."""
    command_timeout: PositiveFloat = 15
    """A step that fails for reasons of infrastructure is tried again for this long, then the caller gets a 503."""
    claim_lease: PositiveFloat = 10
    """How long a reserved order number waits for its order before another order may take it."""
    snapshot_every: dict[str, int] | int = 50
    """Events of a stream between two snapshots; 1 = after every command, 0 = none.
    Per aggregate: '{"Order": 100, "Shipment": 0}'."""

    payload_keys: Annotated[tuple[PayloadKey, ...], NoDecode] = Field(default=(), repr=False)
    """Keys that decrypt what Temporal keeps: ID:KEY, separated by commas."""
    payload_key: str | None = None
    """The id of the one that encrypts it; not set = it is kept in clear."""

    worker_max_workflow_tasks: PositiveInt = 100
    """Workflow tasks that one worker process works on at once."""
    worker_max_steps: PositiveInt = 200
    """Pipeline steps (local activities) that one worker process works on at once."""
    worker_max_cached_workflows: int = Field(default=2000, ge=0)
    """Open orders that one worker process keeps in memory between commands."""
    worker_shutdown_timeout: PositiveFloat = 10
    """How long a stopping worker lets running steps finish."""
    deployment_name: str | None = Field(default=None, pattern=r"^[^.:\s]+$", max_length=200)
    """Worker Versioning: the name under which Temporal knows the versions of these workers; not set = unversioned."""
    build_id: str | None = Field(default=None, pattern=r"^\S+$", max_length=200, validate_default=True)
    """Worker Versioning: which version of the code this worker runs."""
    projections: bool = True
    """Whether this worker process takes part in running the projections and the event handlers."""
    projection_batch: PositiveInt = 2000
    """Events that a projection applies in one transaction, at most."""
    projection_lease: PositiveFloat = 1.5
    """A projection's owner that says nothing for this long is taken for dead."""
    projection_poll: PositiveFloat = 0.5
    """How often a projection looks for events when no notification has come."""
    purge_deleted: bool = False
    """Whether the events of deleted orders are removed for good, once everybody has seen them."""

    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=0, le=65535)
    api_url: str = "http://127.0.0.1:8000"
    """Where the command line sends its own requests."""
    api_key: SecretStr | None = None
    """The key that the command line sends with them."""
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = ()
    """Whose requests the gateway takes: ID:SCOPE:HASH, separated by commas. None: everybody's, on loopback only."""
    rate_limit: str | None = Field(default=None, pattern=r"^[1-9]\d{0,8}/(second|minute|hour)$")
    """Requests that one caller may send to one gateway process, for instance 200/second; not set = any number."""
    temporal_ui_url: str = "http://127.0.0.1:8233"
    """Base of the links to runs in answers."""
    consistency_timeout: float = Field(default=2.0, ge=0)
    """How long an answer to a write waits for the read models; 0 = not at all."""
    request_timeout: PositiveFloat = 30
    """How long a request waits for its command, or for a database, before it gets a 503."""
    receive_timeout: PositiveFloat = 10
    """How long a request may take to come, and its answer to be taken, before the connection is cut."""
    max_body: int = Field(default=1024 * 1024, ge=1024)
    """Bytes that the body of a request may have."""
    max_connections: PositiveInt = 5000
    """Connections that the gateway keeps open; one more gets a 503."""
    max_commands: PositiveInt = 500
    """Commands that the gateway waits for at a time; one more gets a 429."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may use the API from a browser, separated by commas: https://desk.example.com."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """A worker's port for /metrics and /livez; not set = none, 0 = any free one."""

    @field_validator("event_store_url", "read_store_url")
    @classmethod
    def _is_postgres(cls, url: str) -> str:
        if not url.startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        try:
            places = urlsplit(url).netloc.rpartition("@")[2].split(",")
        except ValueError:
            places = ["["]
        # The URL itself isn't told: it may hold a password.
        if not all(map(_PLACE.fullmatch, places)):
            raise ValueError("must be postgresql://user:password@host:port/database")
        return url

    @field_validator("build_id")
    @classmethod
    def _goes_with_a_name(cls, build_id: str | None, info: ValidationInfo) -> str | None:
        if (build_id is None) != (info.data.get("deployment_name") is None):
            raise ValueError("WAYBILL_DEPLOYMENT_NAME and WAYBILL_BUILD_ID have to be set together")
        return build_id

    @field_validator("api_keys", mode="before")
    @classmethod
    def _are_keys(cls, entries: object) -> object:
        return parse_keys(entries) if isinstance(entries, str) else entries

    @field_validator("payload_keys", mode="before")
    @classmethod
    def _are_payload_keys(cls, entries: object) -> object:
        return parse_payload_keys(entries) if isinstance(entries, str) else entries

    @field_validator("payload_key")
    @classmethod
    def _is_among_the_keys(cls, key_id: str | None, info: ValidationInfo) -> str | None:
        if key_id and not any(key.id == key_id for key in info.data.get("payload_keys", ())):
            raise ValueError("must be the ID of a key in WAYBILL_PAYLOAD_KEYS")
        return key_id or None

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _are_origins(cls, origins: str | tuple[str, ...]) -> tuple[str, ...]:
        if isinstance(origins, str):
            origins = tuple(part.strip() for part in origins.split(",") if part.strip())
        if not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("must be origins such as https://desk.example.com, separated by commas")
        return origins

    def snapshot_interval(self, aggregate: str) -> int:
        """Events between snapshots of this aggregate's streams; 0 = none."""
        if isinstance(self.snapshot_every, int):
            return self.snapshot_every
        return self.snapshot_every.get(aggregate, 0)

    @property
    def worker_version(self) -> tuple[str, str] | None:
        """Deployment name and build id, if workers are versioned."""
        return (self.deployment_name, self.build_id) if self.deployment_name and self.build_id else None

    @property
    def idle_timeout(self) -> timedelta:
        return timedelta(seconds=self.order_idle_timeout)


def load() -> Settings:
    """The settings of this process. Raises SettingsError for an unknown name or a wrong value."""
    _refuse_unknown(os.environ)
    try:
        return Settings()
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"][:1]).upper()
        raise SettingsError(f"{name}: {first['msg']}") from None


def temporal() -> dict[str, Any]:
    """How Temporal's client connects. An empty variable is one that isn't set.

    Raises SettingsError for a file that isn't there, or an address without a port.
    """
    # Loaded by who connects only: it takes as long as a short command does.
    from temporalio.envconfig import ClientConfig  # noqa: PLC0415

    try:
        given: dict[str, Any] = {
            **ClientConfig.load_client_connect_config(
                override_env_vars={name: value for name, value in os.environ.items() if value}
            )
        }
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(f"TEMPORAL_* can't be used: {error}") from None
    address = given.setdefault("target_host", _TEMPORAL_ADDRESS)
    if not re.fullmatch(r"\S+:\d{1,5}", address):
        raise SettingsError("TEMPORAL_ADDRESS has to be host:port")
    return given


@cache
def names() -> tuple[str, ...]:
    """Every setting by its environment variable."""
    return tuple(PREFIX + name.upper() for name in Settings.model_fields)


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    for name in environment:
        known = name in names() or name in _FOREIGN or name.startswith(_FOREIGN_PREFIXES)
        if name.startswith(PREFIX) and not known:
            known_names = [each.removeprefix(PREFIX) for each in (*names(), *sorted(_FOREIGN))]
            near = get_close_matches(name.removeprefix(PREFIX), known_names, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else ".env.example lists them all"
            raise SettingsError(f"{name} is not a setting: {hint}")

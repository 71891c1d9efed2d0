"""Temporal as a cluster or Temporal Cloud has it: TLS, certificates, keys, namespaces, search attributes."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode

import settings
from command_line import CommandLine
from support import eventually
from tls import CERTIFICATES, NAME, behind_tls
from workflows.connection import connect
from workflows.search_attributes import NAMES, NotRegistrable, register, register_search_attributes

AUTHORITY = {"TEMPORAL_TLS_SERVER_CA_CERT_PATH": f"{CERTIFICATES}/authority.pem"}
RIGHT = AUTHORITY | {"TEMPORAL_TLS_SERVER_NAME": NAME}
CERTIFIED = RIGHT | {
    "TEMPORAL_TLS_CLIENT_CERT_PATH": f"{CERTIFICATES}/client.pem",
    "TEMPORAL_TLS_CLIENT_KEY_PATH": f"{CERTIFICATES}/client.key",
}


def text(value: str) -> str:
    """What is in the file of this name, if it is one."""
    return Path(value).read_text() if value.startswith("/") else value


@pytest.fixture
def address(temporal: Client) -> str:
    return temporal.service_client.config.target_host


@pytest.fixture
async def addresses(address: str) -> AsyncGenerator[Mapping[str, str]]:
    async with behind_tls(address) as encrypted, behind_tls(address, clients_known=True) as mutual:
        yield {"plain": address, "tls": encrypted, "mutual": mutual, "nobody": "127.0.0.1:1"}


async def to_namespace(address: str, namespace: str = "") -> Client:
    return await Client.connect(address, namespace=namespace or f"n-{uuid4()}", data_converter=pydantic_data_converter)


@pytest.mark.parametrize(
    ("server", "given"),
    [
        ("plain", {}),
        ("tls", RIGHT),
        ("tls", RIGHT | {"TEMPORAL_API_KEY": "secret"}),
        ("mutual", CERTIFIED),
        ("mutual", {name.replace("_PATH", "_DATA"): text(value) for name, value in CERTIFIED.items()}),
    ],
)
async def test_temporal_is_reached_as_the_environment_says(addresses, monkeypatch, server, given):
    monkeypatch.setenv("TEMPORAL_ADDRESS", addresses[server])
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    client = await connect(settings.temporal())

    assert await client.service_client.check_health()


@pytest.mark.parametrize(
    ("server", "given", "told"),
    [
        ("nobody", {}, "connection refused"),
        ("plain", {"TEMPORAL_TLS": "true"}, "TLS is on"),
        ("plain", {"TEMPORAL_API_KEY": "secret"}, "TEMPORAL_API_KEY"),
        ("tls", {}, "it may want TLS"),
        ("tls", {"TEMPORAL_TLS": "true"}, "TEMPORAL_TLS_SERVER_CA_CERT_PATH"),
        ("tls", AUTHORITY, "TEMPORAL_TLS_SERVER_NAME"),
        ("mutual", RIGHT, "a client's certificate"),
        ("mutual", CERTIFIED | {"TEMPORAL_TLS_CLIENT_KEY_PATH": "/nowhere.key"}, "/nowhere.key"),
        ("mutual", RIGHT | {"TEMPORAL_TLS_CLIENT_CERT_DATA": "x"}, "both client cert and private key"),
        ("plain", {"TEMPORAL_PROFILE": "production"}, "Profile 'production' not found"),
    ],
)
async def test_what_is_wrong_with_the_connection_is_told_in_one_line(addresses, monkeypatch, server, given, told):
    monkeypatch.setenv("TEMPORAL_ADDRESS", addresses[server])
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    with pytest.raises((ConnectionError, settings.SettingsError)) as refused:
        await connect(settings.temporal())

    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_migrate_makes_what_temporal_has_to_know_and_then_says_that_it_is_there(
    event_store_url, read_store_url, address
):
    waybill = CommandLine(
        {
            "WAYBILL_EVENT_STORE_URL": event_store_url,
            "WAYBILL_READ_STORE_URL": read_store_url,
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_NAMESPACE": (namespace := f"orders-{uuid4().hex[:8]}"),
        }
    )
    made = await waybill("migrate", "--temporal")
    again = await waybill("migrate", "--temporal")

    assert made.out.splitlines()[-1] == f"Temporal: namespace {namespace}, OrderNumber, OrderStatus, BusinessPartner"
    assert again.out.splitlines()[-1] == "Temporal: up to date"
    assert (made.code, again.code) == (0, 0)


async def test_what_temporal_has_to_know_may_be_made_by_several_at_once(address):
    namespace = f"n-{uuid4()}"
    clients = [await to_namespace(address, namespace) for _ in range(3)]

    made = await asyncio.gather(*(register(client) for client in clients))

    assert {f"namespace {namespace}", *NAMES} == {name for each in made for name in each}
    assert (await clients[0].count_workflows(f"{NAMES[0]} = 'N-1'")).count == 0


async def test_workers_add_the_search_attributes_that_a_namespace_lacks(address):
    client = await to_namespace(address)
    await make_namespace(client)

    await asyncio.gather(*(register_search_attributes(client) for _ in range(2)))

    request = ListSearchAttributesRequest(namespace=client.namespace)
    assert set(NAMES) <= set((await client.operator_service.list_search_attributes(request)).custom_attributes)


async def test_a_search_attribute_of_another_type_is_told(address):
    client = await to_namespace(address)
    number: Any = {NAMES[0]: IndexedValueType.INDEXED_VALUE_TYPE_INT}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=number)
    await make_namespace(client)
    await client.operator_service.add_search_attributes(request)

    with pytest.raises(NotRegistrable, match="OrderNumber is not of type Keyword"):
        await register(client)
    # A worker works without.
    await register_search_attributes(client)


async def test_where_search_attributes_may_not_be_added_it_is_told_which_an_administrator_has_to_add(
    address, monkeypatch
):
    """As on Temporal Cloud, which can't be had here."""
    client = await to_namespace(address)
    await make_namespace(client)

    async def refuse(*_: object, **__: object) -> None:
        raise RPCError("no", RPCStatusCode.PERMISSION_DENIED, b"")

    monkeypatch.setattr(client.operator_service, "add_search_attributes", refuse)

    with pytest.raises(NotRegistrable, match="has to add OrderNumber, OrderStatus, BusinessPartner, of type Keyword"):
        await register(client)
    await register_search_attributes(client)


async def make_namespace(client: Client) -> None:
    """Without search attributes; the server knows it after a moment."""
    week = Duration(seconds=7 * 24 * 3600)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=client.namespace, workflow_execution_retention_period=week)
    )

    async def known() -> bool:
        with suppress(RPCError):
            await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=client.namespace)
            )
            return True
        return False

    await eventually(known, within=30)

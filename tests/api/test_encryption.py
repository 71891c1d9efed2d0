"""A whole Waybill whose Temporal server keeps nothing in clear, and the server that shows it to who may see it."""

import re
from base64 import b64encode
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import WorkflowHistory

import histories
from api.codec_server import create_app
from api.keys import generate as generate_api_key
from domain.ids import shipment_id
from domain.order import OrderCompleted
from over_http import PRODUCT, Story, gateway, problem
from settings import Settings
from support import eventually
from worker import running
from workflows.encryption import Encryption, data_converter
from workflows.payload_keys import generate

OLD, NEW = generate("2025"), generate("2026")
UI = "http://127.0.0.1:8233"


@pytest.fixture
def discreet(waybill_settings: Settings) -> Settings:
    changes = {"task_queue": f"discreet-{uuid4()}", "payload_keys": (OLD, NEW), "payload_key": "2025"}
    return waybill_settings.model_copy(update=changes | {"projections": False, "consistency_timeout": 0.0})


async def history_of(story: Story, temporal) -> WorkflowHistory:
    return await temporal.get_workflow_handle(f"order-{story.order_id}").fetch_history()


def keys_of(history: WorkflowHistory) -> set[str]:
    """The ids of the keys that payloads of the history are encrypted with, as its JSON has them."""
    return set(re.findall(r'"encryption-key-id": "([^"]+)"', history.to_json()))


def in_json(key_id: str) -> str:
    return b64encode(key_id.encode()).decode()


async def replayed(history: WorkflowHistory, *arguments: Any) -> list[histories.Replayed]:
    async def only():
        yield history

    return [each async for each in histories.replay(only(), *arguments)]


async def test_temporal_keeps_no_business_data_in_clear(discreet, store, temporal):
    async with running(discreet), gateway(discreet) as http:
        story = Story(http, store)
        assert (await http.post("/orders", json=story.body)).status_code == 201
        problem(await http.post("/orders", json=story.body), 409, "order-already-created")
        assert (await http.post(f"{story.path}/complete")).status_code == 200

        async def is_shipped() -> bool:
            return bool(await store.read_stream(str(shipment_id(story.order_id))))

        await eventually(is_shipped)
        run = temporal.get_workflow_handle(f"order-{story.order_id}")
        description = await run.describe()
        kept = (await run.fetch_history()).to_json() + json_format.MessageToJson(description.raw_description)

    for private in (story.number, "vinet@northwind", str(PRODUCT)):
        assert private not in kept
        # Bytes are base64 in JSON, which has three ways to show a text.
        for shift in range(3):
            assert b64encode(b" " * shift + private.encode())[4:-4].decode() not in kept
    assert str(story.order_id) in kept, "ids of workflows stay readable"
    assert set(description.search_attributes) >= {"OrderStatus"}
    assert not {"OrderNumber", "BusinessPartner"} & set(description.search_attributes)


async def test_keys_are_changed_while_an_order_is_open(discreet, store, temporal):
    async with running(discreet), gateway(discreet) as http:
        story = Story(http, store)
        assert (await http.post("/orders", json=story.body)).status_code == 201
    renewed = discreet.model_copy(update={"payload_key": "2026"})
    async with running(renewed), gateway(renewed) as http:
        assert (await http.post(f"{story.path}/complete")).status_code == 200
    assert OrderCompleted(id=story.order_id) in await story.new_events()
    history = await history_of(story, temporal)

    assert keys_of(history) == {in_json("2025"), in_json("2026")}
    assert [each.reason for each in await replayed(history, data_converter([OLD, NEW]))] == [""]
    [unreadable] = await replayed(history, data_converter([NEW]))
    assert "WAYBILL_PAYLOAD_KEYS lacks the key" in str(unreadable.failure)


async def test_encryption_is_switched_on_and_off_while_an_order_is_open(discreet, store, temporal):
    clear = discreet.model_copy(update={"payload_key": None})
    async with running(clear), gateway(clear) as http:
        story = Story(http, store)
        assert (await http.post("/orders", json=story.body)).status_code == 201
    assert keys_of(await history_of(story, temporal)) == set()
    item = story.body["items"][0]
    async with running(discreet), gateway(discreet) as http:
        assert (await http.post(f"{story.path}/items", json=item)).status_code == 200
    assert keys_of(await history_of(story, temporal)) == {in_json("2025")}
    async with running(clear), gateway(clear) as http:
        assert (await http.post(f"{story.path}/complete")).status_code == 200
    assert (await replayed(await history_of(story, temporal), data_converter([OLD])))[0].reason == ""


# --- The codec server


def codec_server(**changes: Any) -> httpx2.AsyncClient:
    settings = Settings.model_construct(payload_keys=(OLD, NEW), payload_key="2026", **changes)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(create_app(settings)), base_url="http://codec.test")


async def sealed(*texts: str) -> dict[str, Any]:
    """Payloads as the Web UI sends them."""
    clear = [Payload(metadata={"encoding": b"json/plain"}, data=text.encode()) for text in texts]
    return json_format.MessageToDict(Payloads(payloads=await Encryption([OLD], "2025").encode(clear)))


def texts_of(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [payload.data.decode() for payload in json_format.ParseDict(answer.json(), Payloads()).payloads]


async def test_the_codec_server_shows_payloads_in_clear():
    async with codec_server() as codec:
        assert texts_of(await codec.post("/decode", json=await sealed('"SO-1"', '"SO-2"'))) == ['"SO-1"', '"SO-2"']
        clear = {"payloads": [{"metadata": {"encoding": in_json("json/plain")}, "data": in_json('"SO-3"')}]}
        assert texts_of(await codec.post("/decode", json=clear)) == ['"SO-3"']
        encoded = await codec.post("/encode", json=clear)
        assert in_json('"SO-3"') not in encoded.text
        assert texts_of(await codec.post("/decode", json=encoded.json())) == ['"SO-3"']
        assert (await codec.get("/livez")).text == "ok\n"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"payloads": 1}', b"\xff", b'{"payloads": [{"data": 1}]}'])
async def test_what_temporal_wouldn_t_send_is_refused(body):
    async with codec_server() as codec:
        problem(await codec.post("/decode", content=body), 400, "malformed-request")


async def test_a_payload_that_can_t_be_decoded_is_refused():
    async with codec_server() as codec:
        body = await sealed('"SO-1"')
        body["payloads"][0]["metadata"]["encryption-key-id"] = in_json("2026")
        assert "altered" in problem(await codec.post("/decode", json=body), 400, "malformed-request")["detail"]


async def test_the_codec_server_asks_who_wants_to_know():
    (reader, known), (_, other) = generate_api_key("ada", "read"), generate_api_key("bob", "write")
    async with codec_server(api_keys=(known, other)) as codec:
        body = await sealed('"SO-1"')
        for headers in (
            {"Authorization": f"Bearer {reader}"},
            {"Authorization": f"Basic {b64encode(f'ada:{reader}'.encode()).decode()}"},
        ):
            assert texts_of(await codec.post("/decode", json=body, headers=headers)) == ['"SO-1"']
            problem(await codec.post("/encode", json=body, headers=headers), 403, "forbidden")
        for authorization in ("", "Bearer x", "Basic x", f"Basic {b64encode(reader.encode()).decode()}", "Digest x"):
            refused = await codec.post("/decode", json=body, headers={"Authorization": authorization})
            problem(refused, 401, "unauthorized")
            # The browser asks for it then.
            assert refused.headers["www-authenticate"].startswith("Basic ")


async def test_pages_of_the_web_ui_may_ask_and_others_may_not():
    async with codec_server() as codec:
        asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-namespace"}
        asked = await codec.options("/decode", headers={"Origin": UI, **asking})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == UI
        assert asked.headers["access-control-allow-credentials"] == "true"
        answer = await codec.post("/decode", json=await sealed('"SO-1"'), headers={"Origin": UI})
        assert answer.headers["access-control-allow-origin"] == UI

        foreign = {"Origin": "https://elsewhere.example"}
        assert "access-control-allow-origin" not in (await codec.options("/decode", headers=foreign | asking)).headers
        problem(await codec.post("/decode", json=await sealed('"SO-1"'), headers=foreign), 403, "origin-not-allowed")

"""Keys: who may do what, in whose name it is done, and that nothing is open because somebody forgot it."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest

from api.app import create_app
from api.auth import is_loopback
from api.keys import SCOPES, ApiKey, digest, generate, parse
from otlp import Collector, collecting
from over_http import Story, gateway, problem
from settings import Settings
from support import eventually

KEYS = {f"{scope}er": generate(f"{scope}er", scope) for scope in SCOPES}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


READ, WRITE, ADMIN = (bearer(KEYS[f"{scope}er"][0]) for scope in SCOPES)


@asynccontextmanager
async def keyed(settings: Settings, *keys: ApiKey, **more: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    """A gateway with these keys, that has stores but no Temporal server."""
    async with AsyncExitStack() as stack:
        # Only while it starts: others read the environment, too.
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
            changed = settings.model_copy(update={"api_keys": keys, **more})
            client = await stack.enter_async_context(gateway(changed))
        yield client


@pytest.fixture(scope="module")
async def secured(lonely_settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    async with keyed(lonely_settings, *(kept for _, kept in KEYS.values())) as client:
        yield client


def routes(of: Any) -> Iterable[tuple[str, str]]:
    """Every method and path that there is, parameters filled in."""
    for route in of.routes:
        if router := getattr(route, "original_router", None):
            yield from routes(router)
        else:
            path = re.sub(r"\{[^}]+\}", str(uuid4()), route.path)
            yield from ((method, path) for method in getattr(route, "methods", {"GET"}))


OPEN = {"/livez", "/readyz", "/docs", "/openapi.json", "/static-offline-docs"}


async def test_without_a_key_no_route_is_open_but_those_that_are_meant_to_be(secured):
    found = set(routes(create_app(Settings())))
    assert len(found) > 20
    for method, path in sorted(found):
        if path not in OPEN and not path.startswith("/problems"):
            answer = await secured.request(method, path)
            assert answer.status_code == 401, f"{method} {path}"
            assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in OPEN - {"/static-offline-docs", "/readyz"}:
        assert (await secured.get(path)).status_code == 200, path
    problem(await secured.get("/not/yet/a/route"), 401, "unauthorized")


async def test_each_scope_includes_those_before_it_and_no_more(secured):
    writing = ("POST", "/orders")
    administrating = ("PUT", f"/blocked-products/{uuid4()}")
    reading = ("GET", "/orders")

    async def allowed(request: tuple[str, str], key: dict[str, str]) -> bool:
        answer = await secured.request(*request, headers=key)
        if answer.status_code == 403:
            assert "insufficient_scope" in answer.headers["www-authenticate"]
            problem(answer, 403, "forbidden")
        return answer.status_code != 403

    keys = (READ, WRITE, ADMIN)
    assert [await allowed(reading, key) for key in keys] == [True, True, True]
    assert [await allowed(writing, key) for key in keys] == [False, True, True]
    assert [await allowed(administrating, key) for key in keys] == [False, False, True]


@pytest.mark.parametrize(
    "headers",
    [
        bearer("waybill_guessed"),
        bearer(""),
        {"Authorization": f"Basic {KEYS['reader'][0]}"},
        {"Authorization": KEYS["reader"][0]},
        bearer(KEYS["reader"][1].digest),
        {"X-Api-Key": KEYS["reader"][0]},
    ],
    ids=["unknown", "empty", "another scheme", "no scheme", "its hash", "another header"],
)
async def test_what_is_no_key_is_none(secured, headers):
    problem(await secured.get("/orders", headers=headers), 401, "unauthorized")


async def test_a_key_in_the_query_is_none(secured):
    answer = await secured.get("/orders", params={"api_key": KEYS["reader"][0], "access_token": KEYS["reader"][0]})
    problem(answer, 401, "unauthorized")


async def test_a_stranger_is_not_told_what_is_missing(secured):
    stranger, known = await secured.get("/readyz"), await secured.get("/readyz", headers=READ)
    assert stranger.status_code == known.status_code == 503
    assert stranger.json() == {"status": "unavailable", "checks": {}}
    assert known.json()["checks"]["temporal"] == "unavailable"


async def test_the_document_says_what_takes_which_key(secured):
    paths = (await secured.get("/openapi.json")).json()["paths"]
    assert paths["/livez"]["get"]["security"] == []
    assert paths["/orders"]["get"]["security"] == [{"key": []}]
    assert "`write`" in paths["/orders"]["post"]["description"]
    assert "`admin`" in paths["/blocked-products/{product_id}"]["put"]["description"]


async def test_keys_are_rotated_without_a_pause(lonely_settings):
    (old, kept_old), (new, kept_new) = (generate("desk", "read") for _ in range(2))
    async with keyed(lonely_settings, kept_old, kept_new) as both:
        assert [(await both.get("/orders", headers=bearer(key))).status_code for key in (old, new)] == [200, 200]
    async with keyed(lonely_settings, kept_new) as later:
        assert [(await later.get("/orders", headers=bearer(key))).status_code for key in (old, new)] == [401, 200]


async def test_the_key_is_the_actor_and_idempotency_keys_of_two_do_not_meet(waybill_settings, store):
    (one, kept_one), (other, kept_other) = generate("desk-1", "write"), generate("desk-2", "write")
    same = {"Idempotency-Key": f"key-{uuid4()}"}
    async with gateway(waybill_settings.model_copy(update={"api_keys": (kept_one, kept_other)})) as client:
        stories = Story(client, store), Story(client, store)
        answers = [
            await client.post("/orders", json=story.body, headers=same | bearer(key))
            for story, key in zip(stories, (one, other), strict=True)
        ]
        again = await client.post("/orders", json=stories[0].body, headers=same | bearer(one))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert again.json() == answers[0].json()
    created = [(await store.read_stream(str(story.order_id)))[0] for story in stories]
    assert [orjson.loads(event.metadata or b"")["actor"] for event in created] == ["desk-1", "desk-2"]


# --- Settings and start


def test_only_the_hash_of_a_key_is_kept():
    key, kept = generate("desk", "write")
    assert key not in str(kept)
    assert parse(f"{kept}, other:read:{digest('x')}") == (kept, ApiKey("other", "read", digest("x")))
    assert len(key) > 40


@pytest.mark.parametrize("entry", ["desk", "desk:write:1234", "desk:all:" + "0" * 64, "a b:read:" + "0" * 64])
def test_what_is_no_entry_is_refused_without_quoting_it(entry):
    with pytest.raises(ValueError, match="entry 1 isn't ID:SCOPE:HASH") as refused:
        parse(entry)
    assert entry not in str(refused.value)


@pytest.mark.parametrize("taken", ["anonymous", "waybill", "", "a:b", "x" * 65])
def test_some_ids_can_not_be_had(taken):
    with pytest.raises(ValueError, match="an id is"):
        generate(taken, "read")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.9.10", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "", "10.0.0.7", "waybill.example.com")],
)
def test_loopback_is_what_nobody_else_reaches(host, loopback):
    assert is_loopback(host) is loopback


async def command(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WAYBILL_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cli", *arguments),
        env=clean | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_another_address_than_loopback_without_keys_is_refused_in_one_line():
    code, _, errors = await command("api", WAYBILL_API_HOST="0.0.0.0")
    assert code == 1
    assert errors == (
        "Error: WAYBILL_API_KEYS has to be set, because WAYBILL_API_HOST is '0.0.0.0' and not loopback: "
        "`waybill api-key new ID --scope write` makes a key\n"
    )


async def test_a_new_key_is_printed_with_its_setting(monkeypatch):
    code, out, _ = await command("api-key", "new", "desk", "--scope", "write")
    printed = re.fullmatch(r"Authorization: Bearer (\S+)\nWAYBILL_API_KEYS=(\S+)\n", out)
    assert code == 0
    assert printed
    key, setting = printed.groups()
    monkeypatch.setenv("WAYBILL_API_KEYS", setting)
    assert Settings().api_keys == (ApiKey("desk", "write", digest(key)),)


# --- Rates


async def test_who_sends_too_much_is_told_when_to_come_again_and_others_do_not_notice(lonely_settings):
    (greedy, kept_greedy), (modest, kept_modest) = generate("greedy", "read"), generate("modest", "read")
    async with keyed(lonely_settings, kept_greedy, kept_modest, rate_limit="5/hour") as client:
        answers = [await client.get("/orders", headers=bearer(greedy)) for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        problem(answers[-1], 429, "too-many-requests")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 3600
        assert (await client.get("/orders", headers=bearer(modest))).status_code == 200
        assert (await client.get("/livez", headers=bearer(greedy))).status_code == 200


async def test_without_keys_each_address_has_its_rate(lonely_settings):
    async with keyed(lonely_settings, rate_limit="2/hour") as client:
        assert [(await client.get("/orders")).status_code for _ in range(3)] == [200, 200, 429]


async def test_a_rate_comes_back_with_time(lonely_settings):
    async with keyed(lonely_settings, rate_limit="1/second") as client:
        assert (await client.get("/orders")).status_code == 200

        async def again() -> bool:
            return (await client.get("/orders")).status_code == 200

        await eventually(again)


# --- Secrets


class Spoken:
    """A process, and all that it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, module: str, **environment: str) -> "Spoken":
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", module),
                env={**os.environ, **environment},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        )

    async def _read(self) -> None:
        assert self.process.stdout
        while chunk := await self.process.stdout.read(1 << 16):
            self.said += chunk.decode()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.process.wait(), 60)
        await self._reading


@pytest.fixture
def collector() -> Generator[Collector]:
    with collecting() as collector:
        yield collector


async def test_keys_and_passwords_are_in_no_log_answer_history_metric_or_trace(waybill_settings, temporal, collector):
    """A gateway and a worker at full voice, who are asked rightly, wrongly, and lose their database."""
    key, kept = generate("canary", "admin")
    password = f"canary{uuid4().hex}"
    address = temporal.service_client.config.target_host

    def with_password(url: str) -> str:
        return re.sub(r"//([^:@]+)(:[^@]*)?@", rf"//\1:{password}@", url)

    environment = {
        "WAYBILL_EVENT_STORE_URL": with_password(waybill_settings.event_store_url),
        "WAYBILL_READ_STORE_URL": with_password(waybill_settings.read_store_url),
        "WAYBILL_TASK_QUEUE": f"canary-{uuid4()}",
        "WAYBILL_PROJECTIONS": "false",
        "WAYBILL_CONSISTENCY_TIMEOUT": "0",
        "WAYBILL_API_KEYS": str(kept),
        "WAYBILL_API_KEY": key,
        "WAYBILL_API_PORT": "0",
        "WAYBILL_METRICS_PORT": "0",
        "WAYBILL_LOG_LEVEL": "debug",
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_NAMESPACE": temporal.namespace,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    lost = environment | {"WAYBILL_EVENT_STORE_URL": f"postgresql://waybill:{password}@127.0.0.1:1/event_store"}
    worker, api = await Spoken.start("worker", **environment), await Spoken.start("api", **environment)
    failing = [await Spoken.start(module, **lost) for module in ("worker", "api")]
    try:
        answers: list[httpx2.Response] = []
        await eventually(lambda: "Uvicorn running" in api.said, within=60)
        url = re.findall(r"http://127\.0\.0\.1:\d+", api.said)[0]
        story = Story(httpx2.AsyncClient(base_url=url, timeout=60), None)  # pyright: ignore[reportArgumentType] - not asked
        async with story.waybill as http:
            for headers in (bearer(key), bearer(f"{key}x"), {"Authorization": f"Basic {key}"}, {}):
                answers += [await http.post("/orders", json=story.body, headers=headers)]
                answers += [await http.get(path, headers=headers) for path in ("/orders", "/readyz", "/metrics", "/x")]
            answers += [await http.post("/orders", content=b"{", headers=bearer(key))]
            # It is a mistake to send it here, but not one that the log should make worse.
            answers += [await http.get("/orders", params={"limit": key}, headers=bearer(key))]
            answers += [await http.post("/orders", json={"id": key}, headers=bearer(key))]
        history = await temporal.get_workflow_handle(f"order-{story.order_id}").fetch_history()
    finally:
        for process in (worker, api, *failing):
            await process.stop()

    assert answers[0].status_code == 201
    said = {
        "worker": worker.said,
        "gateway": api.said,
        "those that failed": "".join(process.said for process in failing),
        "answers": "".join(f"{answer.headers} {answer.text}" for answer in answers),
        "history": history.to_json(),
        "traces": " ".join(body.decode("latin-1") for body in collector.bodies),
    }
    assert "canary" in said["history"], "the actor is told"
    for where, text in said.items():
        assert text, where
        for secret in (key, kept.digest, password):
            assert secret not in text, where

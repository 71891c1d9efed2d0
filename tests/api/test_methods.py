"""Methods, origins and the headers that every answer has."""

import httpx2
import pytest

from over_http import Story, gateway, problem

TARGETS = ("/orders", "/events", "/livez", "/problems", "/docs", "/openapi.json", "/blocked-products")


@pytest.mark.parametrize("target", TARGETS)
async def test_a_head_is_a_get_without_its_body(waybill: httpx2.AsyncClient, target: str):
    got, headed = await waybill.get(target), await waybill.head(target)
    assert (got.status_code, headed.status_code) == (200, 200)
    assert got.content
    assert headed.content == b""
    same = ("content-length", "content-type", "etag", "cache-control", "allow")
    assert [got.headers.get(name) for name in same] == [headed.headers.get(name) for name in same]


async def test_a_head_of_an_order_has_its_tag(story: Story):
    await story.waybill.post("/orders", json=story.body)
    headed = await story.waybill.head(story.path)
    assert (headed.status_code, headed.headers["etag"], headed.content) == (200, '"1"', b"")
    assert (await story.waybill.head(story.path, headers={"If-None-Match": '"1"'})).status_code == 304


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/orders", "GET, HEAD, OPTIONS, POST"),
        ("/orders/0b6a2b4e-5c1f-4c6e-9a53-0d6f0a7a2f10", "DELETE, GET, HEAD, OPTIONS"),
        ("/orders/0b6a2b4e-5c1f-4c6e-9a53-0d6f0a7a2f10/complete", "OPTIONS, POST"),
        ("/blocked-products/0b6a2b4e-5c1f-4c6e-9a53-0d6f0a7a2f10", "DELETE, OPTIONS, PUT"),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_path_says_what_it_takes(waybill: httpx2.AsyncClient, target: str, allowed: str):
    options = await waybill.options(target)
    assert (options.status_code, options.headers["allow"], options.content) == (204, allowed, b"")
    refused = await waybill.patch(target)
    problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"] == allowed


async def test_what_is_not_there_takes_nothing(waybill: httpx2.AsyncClient):
    problem(await waybill.options("/nowhere"), 404, "not-found")
    problem(await waybill.patch("/nowhere"), 404, "not-found")


async def test_every_answer_is_kept_from_caches_and_guesses(story: Story):
    created = await story.waybill.post("/orders", json=story.body)
    for answer, kept in (
        (created, "no-store"),
        (await story.waybill.get("/orders"), "no-store"),
        (await story.waybill.get(story.path), "private, no-cache"),
        (await story.waybill.get(story.path, headers={"If-None-Match": '"1"'}), "private, no-cache"),
        (await story.waybill.get("/nowhere"), "no-store"),
        (await story.waybill.get("/problems/not-found"), "public, max-age=3600"),
    ):
        assert answer.headers["cache-control"] == kept
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_pages_of_other_origins_are_let_in_by_name_only(waybill_settings, story: Story):
    desk, other = {"Origin": "https://desk.example.com"}, {"Origin": "https://other.example.com"}
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,idempotency-key"}
    problem(await story.waybill.post("/orders", json=story.body, headers=desk), 403, "origin-not-allowed")
    assert "access-control-allow-origin" not in (await story.waybill.get("/orders", headers=desk)).headers

    settings = waybill_settings.model_copy(update={"cors_origins": ("https://desk.example.com",)})
    async with gateway(settings) as client:
        preflight = await client.options("/orders", headers=desk | ask)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, desk["Origin"])
        resume = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "last-event-id"}
        assert (await client.options("/events", headers=desk | resume)).status_code == 200
        assert (await client.options("/orders", headers=other | ask)).status_code == 400
        created = await client.post("/orders", json=story.body, headers=desk)
        assert (created.status_code, created.headers["access-control-allow-origin"]) == (201, desk["Origin"])
        assert "ETag" in created.headers["access-control-expose-headers"]
        refused = await client.post("/orders", json=story.body, headers=other)
        problem(refused, 403, "origin-not-allowed")
        assert "access-control-allow-origin" not in refused.headers

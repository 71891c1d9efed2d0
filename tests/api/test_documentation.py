"""docs/http.md: its requests are sent, as they stand there, and answered as it says.

A block of `sh` is followed by one of `http` with the answer to each of its requests; or each request has a comment that
begins with the status.
"""

import asyncio
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from wire import gateway_process

PAGE = Path(__file__).parents[2] / "docs/http.md"
# Differ from one store to the next, from one moment to the next.
VOLATILE = {"position", "workflow_url", "created_at", "updated_at"}
PRELUDE = "curl() { command curl -sS --max-time 30 \"$@\" || true; printf '\\n'; }\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


def examples() -> list[tuple[str, str]]:
    """Each block of requests, and the answers that follow it, if they do."""
    text = PAGE.read_text()
    return re.findall(r"^```sh\n(.*?)^```\n(?:\n```http\n(.*?)^```\n)?", text, re.DOTALL | re.MULTILINE)


def answers(text: str) -> list[Answer]:
    parsed: list[Answer] = []
    for answer in re.split(r"^(?=HTTP/1\.1 )", text.replace("\r\n", "\n"), flags=re.MULTILINE)[1:]:
        head, _, body = answer.partition("\n\n")
        status, *lines = head.splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        parsed.append(Answer(int(status.split()[1]), headers, json.loads(body) if body.strip() else None))
    return parsed


def alike(told: Any, given: Any) -> bool:
    """Whether an answer is what the page says, but for what differs each time."""
    if isinstance(told, dict) and isinstance(given, dict):
        return told.keys() == given.keys() and all(
            type(told[name]) is type(given[name]) if name in VOLATILE else alike(told[name], given[name])
            for name in told
        )
    if isinstance(told, list) and isinstance(given, list):
        return len(told) == len(given) and all(map(alike, told, given))
    return told == given


async def run(script: str, url: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", PRELUDE + script, env={"API": url, "PATH": "/usr/bin:/bin"}, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return output.decode()


async def test_the_requests_on_the_page_are_answered_as_it_says(waybill_settings):
    variables = ""
    async with gateway_process(waybill_settings) as served:
        for requests, told in examples():
            variables += "".join(f"{line}\n" for line in requests.splitlines() if re.match(r"[A-Z]+=\S+$", line))
            given = answers(await run(variables + requests, served.url))
            if told:
                expected = answers(told)
                assert [each.status for each in given] == [each.status for each in expected], requests
                for one, other in zip(expected, given, strict=True):
                    assert one.headers.items() <= other.headers.items(), requests
                    assert alike(one.body, other.body), (one.body, other.body)
            else:
                statuses = [int(status) for status in re.findall(r"^curl .*# (\d{3})", requests, re.MULTILINE)]
                assert [each.status for each in given] == statuses, requests
                assert len(statuses) == len(re.findall(r"^curl ", requests, re.MULTILINE)), requests

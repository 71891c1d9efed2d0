"""A slice of `make fuzz`: schemathesis with all its checks, against a whole stack."""

import os

import pytest

from dev import throwaway
from fuzz.run import ENVIRONMENT, fuzz

SECONDS = int(os.environ.get("WAYBILL_TEST_FUZZ_SECONDS", "20"))


@pytest.mark.slow
async def test_every_answer_to_any_request_is_one_that_the_document_promises():
    async with throwaway.stack(environment=ENVIRONMENT) as record:
        outcome = await fuzz(record.api_url, f"--max-time={SECONDS}", "--seed=1")
    assert not outcome.failed, outcome.told
    assert outcome.requests["200"]
    assert outcome.requests["422"]
    assert outcome.tally["checks"] > 100
    assert outcome.tally["failures"] == 0
    assert not any(status.startswith("5") for status in outcome.requests)

"""Places in a trace, as text that others may have written."""

import orjson
import pytest

from projections.telemetry import traceparent_of
from tracing import is_sampled

PLACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [(PLACE, True), (f"{PLACE[:-2]}00", False), (f"{PLACE[:-2]}03", True), ("", False), ("nonsense-xx", False)],
    ids=["sampled", "not sampled", "with another flag", "none", "nonsense"],
)
def test_a_trace_is_sampled_if_its_flag_says_so(traceparent: str, sampled: bool) -> None:
    assert is_sampled(traceparent) is sampled


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (orjson.dumps({"actor": "ann", "traceparent": PLACE, "run_id": "r"}), PLACE),
        (orjson.dumps({"actor": "ann"}), ""),
        (b"\xff not even text", ""),
        (None, ""),
    ],
    ids=["ours", "without", "anything", "nothing"],
)
def test_an_event_s_place_is_found_in_its_metadata(metadata: bytes | None, found: str) -> None:
    assert traceparent_of(metadata) == found


def test_what_only_looks_like_a_place_is_none() -> None:
    assert not is_sampled(traceparent_of(b'{"traceparent":"\xe9\xe9'))

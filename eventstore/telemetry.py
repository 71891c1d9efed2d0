"""What the event store counts: the batches that appends went in, and what became of each append."""

from collections import Counter as Counts
from collections.abc import Mapping, Sequence

from prometheus_client import Counter, Histogram

from eventstore.store import Appended, ClaimLost, StoreError, StreamDeleted, WrongExpectedVersion
from tracing import NO_SPAN, Span

BATCH_SIZE = Histogram(
    "waybill_append_batch_appends",
    "Appends that were committed together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
BATCH_SECONDS = Histogram(
    "waybill_append_batch_seconds",
    "From sending a batch of appends to its answer, repetitions included.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
APPENDS = Counter("waybill_appends", "Appends answered, each by what came of it.", ["outcome"])

_CONFLICTS: Mapping[type[StoreError], str] = {
    WrongExpectedVersion: "wrong_version",
    ClaimLost: "claim_lost",
    StreamDeleted: "stream_deleted",
}
# All of them exist from the beginning: a rate from a counter that appears with its first conflict would miss that one.
_count = {
    outcome: APPENDS.labels(outcome) for outcome in ("appended", "repeated", *_CONFLICTS.values(), "refused", "failed")
}


def observe_batch(spans: Sequence[Span], outcomes: Sequence[Appended | Exception], seconds: float) -> None:
    """A batch has its answers after so many seconds; `spans` are the appends' own, each in its command's trace."""
    BATCH_SIZE.observe(len(outcomes))
    BATCH_SECONDS.observe(seconds)
    counts: Counts[str] = Counts()
    for span, outcome in zip(spans, outcomes, strict=True):
        word = outcome_of(outcome)
        counts[word] += 1
        if span is not NO_SPAN:
            _tell(span, word, outcome, len(outcomes))
    for word, count in counts.items():
        _count[word].inc(count)


def observe_given_up(span: Span, error: TimeoutError) -> None:
    """An append that was in no batch in the end has its answer."""
    word = outcome_of(error)
    _count[word].inc()
    _tell(span, word, error, 1)


def _tell(span: Span, word: str, outcome: Appended | Exception, batch: int) -> None:
    span.tell({"waybill.outcome": word, "waybill.batch.appends": batch})
    if word == "failed":
        span.failed(type(outcome).__name__)


def outcome_of(outcome: Appended | Exception) -> str:
    """In one word."""
    match outcome:
        case Appended():
            return "repeated" if outcome.repeated else "appended"
        case StoreError():
            return _CONFLICTS.get(type(outcome), "refused")
        case _:
            return "failed"

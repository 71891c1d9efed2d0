"""How a step is seen from outside: counted, timed, traced, and named in every line that is logged meanwhile."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

from prometheus_client import Counter, Histogram
from structlog.contextvars import bound_contextvars
from temporalio import activity
from temporalio.exceptions import ApplicationError

import tracing
from activities.execute_and_append import Execution
from domain.commands import CommandRequest

STEPS = Counter("waybill_steps", "Steps of commands, each attempt by what came of it.", ["step", "outcome"])
SECONDS = Histogram(
    "waybill_step_seconds",
    "How long an attempt of a step took.",
    ["step"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)

# Looking for what counts takes longer than counting.
_steps = cache(STEPS.labels)
_seconds = cache(SECONDS.labels)


@contextmanager
def observed(argument: object) -> Generator[None]:
    """Around an attempt of the step that is given this argument."""
    info = activity.info()
    step, workflow_id = info.activity_type, info.workflow_id or ""
    request = _request(argument)
    about = {"order_id": workflow_id.removeprefix("order-"), "workflow_id": workflow_id}
    if request:
        about["request_id"] = request.request_id
    span = tracing.following(step, request.traceparent if request else "", attributes={"waybill.attempt": info.attempt})
    outcome = "done"
    began = time.perf_counter()
    try:
        with bound_contextvars(**about), tracing.within(span):
            try:
                yield
            except BaseException as error:
                outcome = outcome_of(error)
                if outcome == "failed":
                    span.failed(type(error).__name__)
                raise
            finally:
                span.tell({"waybill.outcome": outcome})
    finally:
        _steps(step, outcome).inc()
        _seconds(step).observe(time.perf_counter() - began)


def outcome_of(error: BaseException) -> str:
    """In one word: a code of those that the workflow knows, or `failed`. Never what the error says."""
    return str(error.type) if isinstance(error, ApplicationError) else "failed"


def _request(argument: object) -> CommandRequest | None:
    match argument:
        case CommandRequest():
            return argument
        case Execution():
            return argument.request
        case _:
            return None

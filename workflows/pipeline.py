"""The way of every command: validate, enrich, reserve, execute and append; release if it is refused in the end.

The steps are local activities: they run in the worker that runs the workflow task, and cost one write of the
server per command instead of one per step.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, ApplicationErrorCategory, FailureError

with workflow.unsafe.imports_passed_through():
    from activities import (
        EnrichCommand,
        ExecuteAndAppend,
        RecallOrder,
        ReleaseUniqueness,
        ReserveUniqueness,
        ValidateCommand,
    )
    from activities.enrich_command import Enrichment
    from activities.execute_and_append import Execution
    from activities.failures import CLAIM_LOST, ORDER_MOVED
    from activities.recall_order import Recalled
    from domain.commands import CommandRequest, Receipt

UNAVAILABLE = "unavailable"
"""Failure type of a command whose outcome isn't known: the infrastructure failed it for too long."""

ENRICHED = frozenset({"CompleteOrder"})
UNIQUE = frozenset({"CreateOrder"})

# Another writer may come in between (another program, a run that Temporal has given up): decide anew, not for ever.
_ROUNDS = 5
# Between two tries, in seconds. Short at first: most faults are over at once, and so is another order's reservation.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0


class Handled(NamedTuple):
    """A command's answer, and whether it is an old one that was only given again."""

    receipt: Receipt
    done_before: bool


async def handle(request: CommandRequest, step_seconds: float) -> Handled:
    """What the command did. Raises an ApplicationError with a refusal's code as its type, or UNAVAILABLE."""
    validated = await _step(ValidateCommand.run, request, step_seconds)
    if validated.receipt:
        return Handled(validated.receipt, done_before=True)
    if validated.done_before:
        try:
            return Handled(await _step(ExecuteAndAppend.run, _execution(request), step_seconds), done_before=True)
        except ApplicationError:
            # Its events may just have been purged: then its answer was kept.
            validated = await _step(ValidateCommand.run, request, step_seconds)
            if not validated.receipt:
                raise
            return Handled(validated.receipt, done_before=True)
    return Handled(await _decide(request, step_seconds), done_before=False)


async def follow_up(request: CommandRequest, step_seconds: float) -> Receipt:
    """The same for a command that follows from an event: nobody has sent it, so there is nothing to validate."""
    return await _decide(request, step_seconds)


async def _decide(request: CommandRequest, step_seconds: float) -> Receipt:
    for _ in range(_ROUNDS):
        enrichment = None
        if request.command in ENRICHED:
            enrichment = await _step(EnrichCommand.run, request, step_seconds)
        if request.command in UNIQUE:
            await _step(ReserveUniqueness.run, request, step_seconds)
        try:
            return await _step(ExecuteAndAppend.run, _execution(request, enrichment), step_seconds)
        except ApplicationError as failure:
            if failure.type in {ORDER_MOVED, CLAIM_LOST}:
                continue
            if request.command in UNIQUE and failure.type != UNAVAILABLE:
                await _step(ReleaseUniqueness.run, request, step_seconds)
            raise
    raise unavailable("The order kept changing while the command was decided; send it again")


async def recall(order_id: Any, step_seconds: float) -> Recalled:
    """The order as the event store has it. Raises ApplicationError of type UNAVAILABLE."""
    return await _step(RecallOrder.run, order_id, step_seconds)


def unavailable(message: str) -> ApplicationError:
    return ApplicationError(message, type=UNAVAILABLE, non_retryable=True, category=ApplicationErrorCategory.BENIGN)


def _execution(request: CommandRequest, enrichment: Enrichment | None = None) -> Execution:
    return Execution(request=request, enrichment=enrichment)


async def _step(activity: Callable[..., Any], argument: Any, seconds: float) -> Any:
    try:
        return await workflow.execute_local_activity_method(
            activity,
            argument,
            schedule_to_close_timeout=timedelta(seconds=seconds),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=_FIRST_PAUSE),
                backoff_coefficient=2,
                maximum_interval=timedelta(seconds=_LONGEST_PAUSE),
                # The SDK doesn't notice that the time is over while a local activity waits for its next try.
                maximum_attempts=_tries_within(seconds),
            ),
            # Never a timer on the server: it would cost more history than the wait is worth.
            local_retry_threshold=timedelta(seconds=10),
        )
    except FailureError as error:
        # From a local activity a timeout comes as documented, a failure without the ActivityError around it.
        failure = error.cause if isinstance(error, ActivityError) else error
        if isinstance(failure, ApplicationError) and failure.non_retryable:
            raise failure from None
        step = activity.__qualname__.partition(".")[0]
        raise unavailable(f"{step} has not succeeded for {seconds:g} s: {failure}") from None


def _tries_within(seconds: float) -> int:
    """How often a step that fails at once is tried until the time is over."""
    tries, pause = 1, _FIRST_PAUSE
    while seconds > 0:
        tries, seconds, pause = tries + 1, seconds - pause, min(2 * pause, _LONGEST_PAUSE)
    return tries

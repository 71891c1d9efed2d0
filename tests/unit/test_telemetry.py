"""What is seen of a step while it runs."""

from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from structlog.contextvars import get_contextvars
from temporalio.testing import ActivityEnvironment

from activities.execute_and_append import Execution
from activities.failures import refused
from activities.telemetry import observed
from domain.commands import CommandRequest
from domain.refusals import OrderNotFound

REQUEST = CommandRequest(
    command="CompleteOrder", data={}, command_id=uuid4(), correlation_id=uuid4(), request_id="desk-17"
)


def count(outcome: str) -> float:
    labels = {"step": ActivityEnvironment.default_info().activity_type, "outcome": outcome}
    return REGISTRY.get_sample_value("waybill_steps_total", labels) or 0


@pytest.mark.parametrize("argument", [REQUEST, Execution(request=REQUEST)], ids=["request", "execution"])
def test_what_a_step_logs_names_its_request_order_and_run(argument: object) -> None:
    environment = ActivityEnvironment()

    def step() -> dict[str, object]:
        with observed(argument):
            return get_contextvars()

    workflow_id = environment.info.workflow_id
    known = {"request_id": "desk-17", "workflow_id": workflow_id, "order_id": workflow_id}
    assert environment.run(step) == known
    assert not get_contextvars()


def test_a_step_that_nobody_has_asked_for_is_known_by_its_run() -> None:
    def step() -> dict[str, object]:
        with observed(uuid4()):
            return get_contextvars()

    assert set(ActivityEnvironment().run(step)) == {"workflow_id", "order_id"}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(refused(OrderNotFound()), "order-not-found"), (ConnectionError("host secret.example"), "failed")],
    ids=["refused", "failed"],
)
def test_what_a_step_ended_with_is_counted_in_one_word(error: Exception, outcome: str) -> None:
    def step() -> None:
        with observed(REQUEST):
            raise error

    before = count(outcome)
    with pytest.raises(type(error)):
        ActivityEnvironment().run(step)
    assert count(outcome) == before + 1

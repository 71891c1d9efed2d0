"""What runs have seen so far, this code can go on with; and code that can't is found out before it is deployed."""

from collections.abc import AsyncGenerator
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowHistory
from temporalio.workflow import NondeterminismError

import histories
from command_line import CommandLine
from histories import Replayed
from support import eventually
from workflows import pipeline
from workflows.messages import workflow_id

FOLDER = Path(__file__).parent / "histories"
RECORDED = {file.stem: file for file in FOLDER.glob("*.json")}
POISONED = "poisoned"


async def replayed(name: str) -> Replayed:
    async def one() -> AsyncGenerator[WorkflowHistory]:
        yield histories.read(RECORDED[name].read_text())

    (outcome,) = [outcome async for outcome in histories.replay(one())]
    return outcome


@pytest.mark.parametrize("name", sorted(RECORDED.keys() - {POISONED}))
async def test_the_order_process_goes_on_with_every_run_that_was_recorded(name):
    outcome = await replayed(name)
    assert outcome.failure is None, outcome.reason


async def test_a_run_that_other_code_has_driven_is_found_out():
    outcome = await replayed(POISONED)
    assert isinstance(outcome.failure, NondeterminismError)
    assert outcome.reason == (
        "[TMPRL1100] Nondeterminism error: Activity type of recorded marker 'ReserveUniqueness' "
        "does not match activity type of local activity command 'EnrichCommand'"
    )


@pytest.mark.parametrize("steps", ["ENRICHED", "UNIQUE"])
async def test_a_pipeline_that_leaves_out_a_step_can_not_go_on_with_a_run_that_took_it(steps, monkeypatch):
    monkeypatch.setattr(pipeline, steps, frozenset())
    assert (await replayed("whole_life")).failure


@pytest.mark.parametrize("steps", ["ENRICHED", "UNIQUE"])
async def test_a_pipeline_with_another_step_can_not_go_on_with_a_run_that_did_without(steps, monkeypatch):
    monkeypatch.setattr(pipeline, steps, frozenset({"CreateOrder", "CompleteOrder"}))
    assert (await replayed("whole_life")).failure


def test_no_recorded_history_is_missing():
    assert RECORDED.keys() == {
        "completed_by_another_program-1",
        "completed_by_another_program-2",
        "whole_life",
        "refused_creation",
        "broken_rules",
        "order_with_items_added",
        "deleted_order",
        "blocked_then_unblocked",
        "continued_as_new-1",
        "continued_as_new-2",
        "idle_and_revived-1",
        "idle_and_revived-2",
        "repeated_command-1",
        "repeated_command-2",
        "stale_precondition",
        "steps_tried_again",
        "order_moved_on",
        "store_away",
        "shipment_delayed",
        "unattended",
        POISONED,
    }


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recorded_history_tells_nothing_of_the_machine_it_was_recorded_on(name):
    events = histories.read(RECORDED[name].read_text()).events
    assert "stackTrace" not in RECORDED[name].read_text()
    assert {event.workflow_task_started_event_attributes.identity for event in events} <= {"", "recorder"}


# --- waybill history


@pytest.fixture
def waybill(temporal: Client) -> CommandLine:
    return CommandLine({"TEMPORAL_ADDRESS": temporal.service_client.config.target_host})


def workflows_in(directory: Path) -> list[str]:
    return [file.name.partition(".")[0] for file in directory.iterdir()]


async def test_open_runs_are_exported_and_replayed_with_the_new_code(waybill, orders, tmp_path):
    open_order, shipped_order = uuid4(), uuid4()
    for order_id in (open_order, shipped_order):
        await orders.create(order_id)
        await orders.complete(order_id)
    await orders.ship(shipped_order)
    both, only_open = tmp_path / "both", tmp_path / "open"
    ids = (str(open_order), workflow_id(shipped_order))

    async def listed() -> bool:
        return (await waybill("history", "export", str(both), *ids)).err == "exported: 2\n"

    await eventually(listed)
    assert (await waybill("history", "export", "--open", str(only_open), *ids)).err == "exported: 1\n"
    assert workflows_in(only_open) == [workflow_id(open_order)]

    replay = await waybill("history", "replay", str(both))
    assert replay.code == 0, replay
    assert replay.out.endswith("replayed: 2, failed: 0\n")


async def test_histories_go_from_one_command_to_the_other_through_a_pipe(waybill, orders):
    order_id = uuid4()
    await orders.create(order_id)

    async def exported() -> str:
        return (await waybill("history", "export", "-", str(order_id))).out

    replay = await waybill("history", "replay", "--json", "-", given=(await eventually(exported)).encode())
    assert replay.code == 0, replay
    (run,) = replay.events
    assert run["history"].startswith(f"{workflow_id(order_id)}.")
    assert (run["ok"], run["reason"]) == (True, "")


async def test_a_replay_names_every_history_that_fails_with_its_reason(waybill):
    replay = await waybill("history", "replay", str(FOLDER))
    assert replay.code == 1
    assert replay.err == ""
    assert replay.out.endswith(f"replayed: {len(RECORDED)}, failed: 1\n")
    (failed,) = [line for line in replay.out.splitlines() if "FAILED" in line]
    assert "Nondeterminism error" in failed


async def test_what_is_no_history_is_told_in_one_line(waybill, tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    replay = await waybill("history", "replay", str(tmp_path))
    assert replay.code == 1
    assert replay.err.startswith(f"Error: {tmp_path}/notes.json is no history: ")
    assert replay.err.count("\n") == 1


async def test_an_order_without_runs_is_an_error(waybill, tmp_path):
    exported = await waybill("history", "export", str(tmp_path), str(uuid4()))
    assert exported.code == 1
    assert exported.err.startswith("Error: these orders have no such runs")

"""Ids that derive from their cause are a storage format: these values must never change."""

from uuid import UUID

from domain import ids

COMMAND = UUID("11111111-1111-4111-8111-111111111111")
ORDER = UUID("22222222-2222-4222-8222-222222222222")


def test_an_event_id_derives_from_its_command_and_its_place_in_it() -> None:
    assert ids.event_id(COMMAND, 0) == UUID("c09c0359-59c7-5f10-8f5b-86a795c831fe")
    assert ids.event_id(COMMAND, 1) == UUID("92f0384d-2d79-5b67-a3d6-21b20cc7c384")


def test_a_shipment_id_derives_from_its_order() -> None:
    assert ids.shipment_id(ORDER) == UUID("a42d888b-4747-5d41-8cba-ed1396a99681")


def test_the_command_that_an_event_causes_derives_from_the_event() -> None:
    assert ids.caused_command_id(COMMAND, "CreateShipment") == UUID("7a2baab3-40e7-5c7f-a24f-19915f50b73c")


def test_a_key_names_a_command_of_its_caller_only() -> None:
    assert ids.keyed_command_id("ann", "first try") == UUID("0115b793-d9b8-50cb-ae14-4694a7c0a2cc")
    assert ids.keyed_command_id("bob", "first try") != ids.keyed_command_id("ann", "first try")
    assert ids.keyed_command_id("ann", "second try") != ids.keyed_command_id("ann", "first try")


def test_an_order_without_an_id_of_its_own_gets_one_from_its_command() -> None:
    assert ids.order_id_for(COMMAND) == UUID("5f74d323-f2d8-57f2-9f2f-5e6a34601ba2")


def test_all_events_of_an_order_process_share_the_order_id_as_correlation() -> None:
    assert ids.correlation_id(ORDER) == ORDER


def test_ids_with_the_same_cause_do_not_meet() -> None:
    derived = [
        ids.event_id(COMMAND, 0),
        ids.event_id(COMMAND, 1),
        ids.shipment_id(COMMAND),
        ids.order_id_for(COMMAND),
        ids.caused_command_id(COMMAND, "CreateShipment"),
    ]
    assert len({*derived, COMMAND}) == len(derived) + 1

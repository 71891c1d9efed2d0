"""A run can be repeated from its seed, and doesn't count if too little has happened in it."""

from itertools import islice

import pytest

from proof.checks import CHECKS, Verdict
from proof.journal import Call, Struck
from proof.plan import PACK, Fault, deal
from proof.report import KINDS, PROCESSES, passed, report

_CALLS = [
    Call(1, "POST", "/orders", {}, "a", began=1, ended=2, status=201),
    Call(2, "POST", "/orders", {}, "b", began=2, ended=9, error="ReadError"),
    Call(3, "POST", "/orders", {}, "b", began=10, ended=14, status=201),
]
_VERDICTS = {name: Verdict(1, []) for name in CHECKS}


def struck() -> list[Struck]:
    faults = [Fault("kill", target, 0, 0) for target in ("api", "worker-1", "postgres", "temporal", "load")]
    faults += [Fault(kind, "load", 0, 1) for kind in KINDS if kind != "kill"]
    return [Struck(fault, 3, 1) for fault in faults]


def test_the_same_seed_deals_the_same_faults():
    assert list(islice(deal(7, 30, 5), 100)) == list(islice(deal(7, 30, 5), 100))
    assert list(islice(deal(7, 30, 5), 100)) != list(islice(deal(8, 30, 5), 100))


def test_every_pack_has_every_kind_of_fault_and_kills_every_process():
    faults = deal(1, 30, 5)
    for _ in range(20):
        pack = list(islice(faults, PACK))
        assert {fault.kind for fault in pack} == set(KINDS)
        assert {fault.place for fault in pack if fault.kind == "kill"} == set(PROCESSES)


def test_recovery_is_the_time_to_the_first_acknowledgement_of_what_was_sent_after_the_fault():
    found = report(1, 20, _CALLS, struck(), _VERDICTS)

    assert passed(found)
    assert found["acknowledged"] == 2
    assert found["kills"]["all"] == 5
    assert found["recovery"]["kill: api"] == {"times": 1, "median": 11, "worst": 11}


@pytest.mark.parametrize("missing", range(len(struck())))
def test_a_run_in_which_one_kind_of_fault_has_hit_nothing_proves_nothing(missing):
    faults = struck()
    faults[missing].hits = 0

    assert not passed(report(1, 20, _CALLS, faults, _VERDICTS))


def test_a_run_without_acknowledged_commands_proves_nothing():
    assert not passed(report(1, 20, _CALLS[1:2], struck(), _VERDICTS))


def test_a_run_in_which_every_request_got_its_answer_proves_nothing():
    assert not passed(report(1, 20, _CALLS[::2], struck(), _VERDICTS))


def test_a_check_that_had_nothing_to_look_at_proves_nothing():
    assert not passed(report(1, 20, _CALLS, struck(), {**_VERDICTS, "no workflow fails": Verdict(0, [])}))


def test_a_run_with_a_violation_has_failed():
    assert not passed(report(1, 20, _CALLS, struck(), {**_VERDICTS, "no workflow fails": Verdict(1, ["it fails"])}))

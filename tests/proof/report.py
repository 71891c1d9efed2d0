"""What a run has come to: figures for people and, as JSON, for programs; and whether it proves anything."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from proof.checks import Verdict
from proof.journal import Call, Struck, acknowledged

PROCESSES = ("api", "worker", "postgres", "temporal", "load")
KINDS = ("kill", "pause", "stall", "black hole", "answer lost", "error after done")


def report(
    seed: int, seconds: float, calls: Sequence[Call], struck: Sequence[Struck], verdicts: Mapping[str, Verdict]
) -> dict[str, Any]:
    """Everything that a run has to tell; times are in seconds."""
    commands = acknowledged(calls)
    kills = Counter(each.fault.place for each in struck if each.fault.kind == "kill" and each.hits)
    hits: Counter[str] = Counter()
    for each in struck:
        hits[each.fault.kind] += each.hits
    found = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "acknowledged": len(commands),
        "acknowledged_per_second": round(len(commands) / seconds, 1),
        "outcomes": dict(Counter(_outcome(call) for call in calls if call.writes).most_common()),
        "faults": len(struck),
        "kills": {"all": kills.total(), **{process: kills[process] for process in PROCESSES}},
        "hits": {kind: hits[kind] for kind in KINDS},
        "recovery": _recovery(struck, calls),
        "longest_waits": _waits(calls),
        "checks": {
            name: {"looked_at": verdict.looked_at, "violations": len(verdict.violations)}
            for name, verdict in verdicts.items()
        },
        "violations": [f"{name}: {text}" for name, verdict in verdicts.items() for text in verdict.violations],
    }
    return {**found, "too_tame": shortcomings(found)}


def shortcomings(found: Mapping[str, Any]) -> list[str]:
    """Why this run proves nothing: what was not hit, and what was not done."""
    return [
        *(f"no {kind} has hit anything" for kind in KINDS if not found["hits"][kind]),
        *(f"{process} was never killed" for process in PROCESSES if not found["kills"][process]),
        *(f"nothing to look at: {name}" for name, check in found["checks"].items() if not check["looked_at"]),
        *(["nothing was acknowledged"] if not found["acknowledged"] else []),
        *(["no request was left without an answer"] if not found["outcomes"].get("no answer") else []),
    ]


def passed(found: Mapping[str, Any]) -> bool:
    return not found["violations"] and not found["too_tame"]


def _outcome(call: Call) -> str:
    if call.status is None:
        return "no answer"
    return f"{call.status} {call.code}".strip()


def _recovery(struck: Sequence[Struck], calls: Sequence[Call]) -> dict[str, dict[str, Any]]:
    """From a fault to the first acknowledgement of a command that was sent after it."""
    done = sorted((call for call in calls if call.done), key=lambda call: call.began)
    began = [call.began for call in done]
    soonest = [call.ended or 0.0 for call in done]
    for i in range(len(soonest) - 2, -1, -1):
        soonest[i] = min(soonest[i], soonest[i + 1])
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for each in struck:
        i = bisect_left(began, each.began)
        if each.hits and i < len(soonest):
            taken[f"{each.fault.kind}: {each.fault.place}"].append(soonest[i] - each.began)
    return {
        kind: {"times": len(times), "median": round(median(times), 2), "worst": round(max(times), 2)}
        for kind, times in sorted(taken.items())
    }


def _waits(calls: Sequence[Call]) -> dict[str, float]:
    """From a command's first sending to its acknowledgement."""
    first: dict[str, float] = {}
    for call in calls:
        if call.writes and call.key:
            first.setdefault(call.key, call.began)
    waits = sorted((call.ended or 0) - first[call.key] for call in acknowledged(calls) if call.key)
    if not waits:
        return {}
    return {
        "median": round(median(waits), 2),
        "99th": round(waits[int(0.99 * (len(waits) - 1))], 2),
        "worst": round(waits[-1], 2),
    }


def told(found: Mapping[str, Any]) -> str:
    """For people."""
    lines = [
        f"seed {found['seed']}, {found['seconds']:.0f} s of faults",
        f"{found['acknowledged']:,} commands acknowledged, {found['acknowledged_per_second']} a second",
        "kills: " + ", ".join(f"{count} {name}" for name, count in found["kills"].items()),
        "hits: " + ", ".join(f"{count} {name}" for name, count in found["hits"].items()),
        "",
        "from a fault to the next acknowledged command, seconds",
        *(
            f"  {kind:38} {each['times']:4} times  median {each['median']:6.2f}  worst {each['worst']:6.2f}"
            for kind, each in found["recovery"].items()
        ),
        "  a command's own wait: " + ", ".join(f"{name} {wait}" for name, wait in found["longest_waits"].items()),
        "",
        "checks",
        *(
            f"  {'ok  ' if not each['violations'] else 'FAIL'} {name}: {each['looked_at']:,} looked at"
            + (f", {each['violations']:,} wrong" if each["violations"] else "")
            for name, each in found["checks"].items()
        ),
        *(f"    {text}" for text in found["violations"][:50]),
        *(f"PROVES NOTHING: {text}" for text in found["too_tame"]),
    ]
    return "\n".join(lines)

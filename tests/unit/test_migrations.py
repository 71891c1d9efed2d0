"""During a deploy, old and new code use the same tables: a migration may add, and take away only what nobody uses."""

import re

import pytest

from eventstore.migrate import migrations

PACKAGES = ("eventstore", "projections")
CONTRACTS = "_contract"
"""Ends the name of a migration that takes away what only code before the last release used (docs/deploys.md)."""
BEFORE_THE_FIRST_RELEASE = {"0001_event_store", "0002_builds"}
TAKES_AWAY = re.compile(
    r"\bdrop (table|column|view|function|index|schema|type|trigger)\b|\brename\b|\bset not null\b"
    r"|\balter column \w+ (set data )?type\b",
    re.IGNORECASE,
)


def takes_away(sql: str) -> bool:
    return bool(TAKES_AWAY.search(re.sub(r"--.*", "", sql)))


@pytest.mark.parametrize("package", PACKAGES)
def test_code_that_runs_survives_every_migration_that_does_not_say_otherwise(package):
    breaking = {name for name, sql in migrations(package).items() if takes_away(sql)}
    assert {name for name in breaking if not name.endswith(CONTRACTS)} <= BEFORE_THE_FIRST_RELEASE


@pytest.mark.parametrize(
    ("sql", "breaks"),
    [
        ("alter table orders add column note text", False),
        ("create index concurrently on orders (note); -- drop table orders", False),
        ("alter table orders drop column note", True),
        ("alter table orders rename column note to remark", True),
        ("alter table orders alter column note type varchar(9)", True),
        ("alter table orders alter column note set not null", True),
        ("drop function waybill.append(text)", True),
    ],
)
def test_what_takes_something_away_is_recognised(sql, breaks):
    assert takes_away(sql) is breaks

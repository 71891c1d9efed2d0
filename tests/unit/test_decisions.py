"""The decisions name files, settings and packages: what they name exists, and every dependency has its reason."""

import re
import tomllib
from pathlib import Path

from settings import names

ROOT = Path(__file__).parents[2]
DECISIONS = {path.name: path.read_text() for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))}


def named(pattern: str) -> set[str]:
    return {name for text in DECISIONS.values() for name in re.findall(pattern, text)}


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(name[:4]) for name in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    for name, text in DECISIONS.items():
        assert text.startswith(f"# {int(name[:4])}. "), name


def test_the_files_that_are_named_exist() -> None:
    files = named(r"`([\w/]+\.(?:py|sql))`")
    assert files
    assert {file for file in files if not (ROOT / file).is_file()} == set()


def test_the_settings_that_are_named_exist() -> None:
    assert named(r"WAYBILL_\w+") <= set(names())


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {re.split(r"[\[<>=]", requirement)[0] for group in groups for requirement in group}
    explained = re.findall(r"^\| (`.*?`) \| \S", DECISIONS["0003-dependencies.md"], flags=re.MULTILINE)
    assert {name for cell in explained for name in re.findall(r"`([^`]+)`", cell)} == wanted

"""SQL lives in .sql files, one named and commented statement after the other; this reads them."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load_statements(package: str, file: str) -> Mapping[str, str]:
    """The statements of `package`'s file sql/`file`, by name.

    A statement begins with the line `-- name: the_name`; its comment goes along to the server, where
    it tells who reads a slow-query log what it is looking at.
    """
    text = resources.files(package).joinpath("sql", file).read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {
        name: f"-- {name}\n{statement.strip().rstrip(';')}"
        for name, statement in zip(parts[::2], parts[1::2], strict=True)
    }

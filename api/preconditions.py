"""Entity tags, and the preconditions that callers make of them (RFC 9110, section 13).

An order's tag is `"<version>"`, and `"<version>.<shipment's version>"` once it has a shipment, because what is
shown of it changes with the shipment.
"""

import re
from typing import Literal

from api.problems import MalformedRequest

_ENTITY_TAG = re.compile(r'(?P<weak>W/)?"(?P<opaque>[\x21\x23-\x7e\x80-\xff]*)"')
_VERSION = re.compile(r"(?P<version>[1-9]\d{0,17})(\.[1-9]\d{0,17})?")

Expected = frozenset[int] | Literal["any"]
"""The versions that If-Match allows."""


def entity_tag(version: int, shipment_version: int | None = None) -> str:
    return f'"{version}"' if shipment_version is None else f'"{version}.{shipment_version}"'


def expected_versions(if_match: str | None) -> Expected:
    """The versions that If-Match names, in either form of the tag; none if all tags are weak or not ours.

    Raises MalformedRequest for what is no list of entity tags.
    """
    if if_match is None or if_match.strip() == "*":
        return "any"
    tags = _entity_tags(if_match)
    if not tags:
        raise MalformedRequest('If-Match has to be * or a list of entity tags such as "7"')
    named = (_VERSION.fullmatch(opaque) for weak, opaque in tags if not weak)
    return frozenset(int(version["version"]) for version in named if version)


def is_current(if_none_match: str | None, tag: str) -> bool:
    """Whether the caller has what `tag` stands for already. Here weak tags count, as RFC 9110 says.

    Raises MalformedRequest for what is no list of entity tags.
    """
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    tags = _entity_tags(if_none_match)
    if not tags:
        raise MalformedRequest('If-None-Match has to be * or a list of entity tags such as "7"')
    return any(f'"{opaque}"' == tag for _, opaque in tags)


def _entity_tags(header: str) -> list[tuple[bool, str]]:
    """Whether each tag is weak, and what is between its quotes; nothing if the header is malformed."""
    tags: list[tuple[bool, str]] = []
    rest = header.strip()
    while rest:
        tag = _ENTITY_TAG.match(rest)
        if tag is None:
            return []
        tags.append((tag["weak"] is not None, tag["opaque"]))
        rest = rest[tag.end() :].lstrip()
        if rest and not rest.startswith(","):
            return []
        rest = rest.lstrip(", \t")
    return tags

"""API keys. Only their hashes are kept: a key has 256 random bits, so that nothing slower than SHA-256 is needed."""

import re
import secrets
from hashlib import sha256
from typing import Literal, NamedTuple, cast, get_args

Scope = Literal["read", "write", "admin"]
"""What a key is good for; each includes those before it."""
SCOPES: tuple[Scope, ...] = get_args(Scope)

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ENTRY = re.compile(rf"(?P<id>{_ID}):(?P<scope>{'|'.join(SCOPES)}):(?P<digest>[0-9a-f]{{64}})")
# Who acts where nobody has a key, and who acts by himself: no key may speak for them.
_RESERVED = frozenset({"anonymous", "waybill"})


class ApiKey(NamedTuple):
    """What is known of a key. Several may have the same id: they are the same actor, the old key and the new one."""

    id: str
    scope: Scope
    digest: str

    def __str__(self) -> str:
        return ":".join(self)

    def allows(self, scope: Scope) -> bool:
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


def parse(entries: str) -> tuple[ApiKey, ...]:
    """The keys of a setting: `id:scope:hash`, separated by commas or spaces. Raises ValueError."""
    keys: list[ApiKey] = []
    for number, entry in enumerate(entries.replace(",", " ").split(), 1):
        found = _ENTRY.fullmatch(entry)
        if not found or found["id"] in _RESERVED:
            raise ValueError(f"entry {number} isn't ID:SCOPE:HASH, as `waybill api-key new` prints it")
        keys.append(ApiKey(found["id"], cast("Scope", found["scope"]), found["digest"]))
    return tuple(keys)


def generate(key_id: str, scope: Scope) -> tuple[str, ApiKey]:
    """A new key, and what to keep of it. Raises ValueError for an id that can't be one."""
    key = f"waybill_{secrets.token_urlsafe(32)}"
    try:
        (kept,) = parse(f"{key_id}:{scope}:{digest(key)}")
    except ValueError:
        names = " and ".join(sorted(_RESERVED))
        raise ValueError(f"an id is 1 to 64 letters, digits, '.', '_' or '-'; {names} are taken") from None
    return key, kept


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()

"""The keys that payloads on their way to Temporal are encrypted with."""

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field

_BYTES = 32
"""AES-256."""
_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ENTRY = re.compile(rf"(?P<id>{_ID}):(?P<secret>[A-Za-z0-9_-]{{43}}=?)")


@dataclass(frozen=True, slots=True)
class PayloadKey:
    """A key, and the id that its payloads name it by, in clear."""

    id: str
    secret: bytes = field(repr=False)

    def entry(self) -> str:
        """As WAYBILL_PAYLOAD_KEYS has it."""
        return f"{self.id}:{urlsafe_b64encode(self.secret).decode().rstrip('=')}"


def parse(entries: str) -> tuple[PayloadKey, ...]:
    """The keys of a setting: `id:key`, separated by commas or spaces. Raises ValueError, which quotes none of it."""
    keys: list[PayloadKey] = []
    for number, entry in enumerate(entries.replace(",", " ").split(), 1):
        found = _ENTRY.fullmatch(entry)
        if not found:
            raise ValueError(f"entry {number} isn't ID:KEY, as `waybill payload-key new` prints it")
        keys.append(PayloadKey(found["id"], urlsafe_b64decode(found["secret"].rstrip("=") + "=")))
    if len({key.id for key in keys}) < len(keys):
        raise ValueError("two keys have the same id")
    return tuple(keys)


def generate(key_id: str) -> PayloadKey:
    """A new key. Raises ValueError for an id that can't be one."""
    if not re.fullmatch(_ID, key_id):
        raise ValueError("an id is 1 to 64 letters, digits, '.', '_' or '-'")
    return PayloadKey(key_id, secrets.token_bytes(_BYTES))

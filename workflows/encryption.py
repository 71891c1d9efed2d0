"""Encryption of all that Temporal keeps of an order's run: inputs, results, markers, failures.

What Temporal has to read stays in clear: ids of workflows and updates, types, task queue, search attributes, times. A
payload that isn't encrypted is taken as it is, so that encryption can be switched on while runs are open.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from workflows.payload_keys import PayloadKey

_ENCODING = b"binary/encrypted"
_NONCE_BYTES = 12
"""Random, 96 bits: one key is good for 2**32 payloads (NIST SP 800-38D, section 8.3)."""


class UnreadablePayload(Exception):
    """A payload whose key isn't among ours, or that somebody has altered."""


class Encryption(PayloadCodec):
    """AES-256-GCM. Encrypts with the key that is called `current`, decrypts with any of `keys`.

    `current` None: decrypts only. The key's id is part of what is authenticated.
    """

    def __init__(self, keys: Sequence[PayloadKey], current: str | None) -> None:
        self._ciphers = {key.id: AESGCM(key.secret) for key in keys}
        self._current = current

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if self._current is None:
            return list(payloads)
        cipher, key_id = self._ciphers[self._current], self._current.encode()
        return [_encrypted(cipher, key_id, payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises UnreadablePayload."""
        return list(self._decrypted(payloads))

    def _decrypted(self, payloads: Iterable[Payload]) -> Iterable[Payload]:
        for payload in payloads:
            if payload.metadata.get("encoding") != _ENCODING:
                yield payload
                continue
            key_id = payload.metadata.get("encryption-key-id", b"")
            cipher = self._ciphers.get(key_id.decode(errors="replace"))
            if cipher is None:
                raise UnreadablePayload("WAYBILL_PAYLOAD_KEYS lacks the key that a payload is encrypted with")
            nonce, sealed = payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:]
            try:
                yield Payload.FromString(cipher.decrypt(nonce, sealed, key_id))
            except (InvalidTag, ValueError):
                raise UnreadablePayload("a payload has been altered, or its key's id means another key now") from None


def _encrypted(cipher: AESGCM, key_id: bytes, payload: Payload) -> Payload:
    nonce = os.urandom(_NONCE_BYTES)
    return Payload(
        metadata={"encoding": _ENCODING, "encryption-key-id": key_id},
        data=nonce + cipher.encrypt(nonce, payload.SerializeToString(), key_id),
    )


def data_converter(keys: Sequence[PayloadKey] = (), current: str | None = None) -> DataConverter:
    """How values travel to Temporal and back: as pydantic has them, encrypted where there are keys."""
    if not keys:
        return pydantic_data_converter
    return dataclasses.replace(
        pydantic_data_converter,
        payload_codec=Encryption(keys, current),
        # A failure's message and stack trace would be in clear otherwise.
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes
        if current
        else pydantic_data_converter.failure_converter_class,
    )

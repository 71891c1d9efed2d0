"""Payloads that Temporal can't read."""

import pytest
from temporalio.api.common.v1 import Payload

from workflows.encryption import Encryption, UnreadablePayload, data_converter
from workflows.payload_keys import PayloadKey, generate, parse

OLD, NEW = generate("2025"), generate("2026")
CLEAR = Payload(metadata={"encoding": b"json/plain"}, data=b'"SO-1"')


async def sealed(key: PayloadKey) -> Payload:
    [payload] = await Encryption([key], key.id).encode([CLEAR])
    return payload


async def test_what_is_encrypted_shows_its_keys_id_and_nothing_else():
    payload = await sealed(NEW)

    assert dict(payload.metadata) == {"encoding": b"binary/encrypted", "encryption-key-id": b"2026"}
    assert b"SO-1" not in payload.SerializeToString()
    assert await sealed(NEW) != payload, "the same text looks different each time"
    assert await Encryption([NEW], None).decode([payload]) == [CLEAR]


async def test_an_old_key_still_decrypts_while_the_new_one_encrypts():
    both = Encryption([NEW, OLD], "2026")
    [again] = await both.encode([CLEAR])

    assert await both.decode([await sealed(OLD), again, CLEAR]) == [CLEAR, CLEAR, CLEAR]
    assert again.metadata["encryption-key-id"] == b"2026"


async def test_without_a_current_key_nothing_is_encrypted():
    assert await Encryption([NEW], None).encode([CLEAR]) == [CLEAR]


async def test_a_payload_of_a_key_that_is_missing_is_not_guessed_at():
    with pytest.raises(UnreadablePayload, match="WAYBILL_PAYLOAD_KEYS lacks the key"):
        await Encryption([OLD], "2025").decode([await sealed(NEW)])


async def test_another_key_by_the_same_id_decrypts_nothing():
    with pytest.raises(UnreadablePayload, match="altered"):
        await Encryption([PayloadKey("2026", OLD.secret)], None).decode([await sealed(NEW)])


@pytest.mark.parametrize("place", [0, 11, 12, -1])
async def test_a_payload_that_was_altered_is_refused(place: int):
    payload = await sealed(NEW)
    data = bytearray(payload.data)
    data[place] ^= 1
    payload.data = bytes(data)

    with pytest.raises(UnreadablePayload, match="altered"):
        await Encryption([NEW], None).decode([payload])


@pytest.mark.parametrize("data", [b"", b"short"])
async def test_a_payload_that_was_cut_short_is_refused(data: bytes):
    payload = await sealed(NEW)
    payload.data = data

    with pytest.raises(UnreadablePayload, match="altered"):
        await Encryption([NEW], None).decode([payload])


async def test_a_payload_under_another_keys_id_is_refused():
    payload = await sealed(NEW)
    payload.metadata["encryption-key-id"] = b"other"

    with pytest.raises(UnreadablePayload, match="altered"):
        await Encryption([NEW, PayloadKey("other", NEW.secret)], None).decode([payload])


async def test_a_failure_tells_nothing_in_clear():
    converter = data_converter([NEW], "2026")
    from temporalio.api.failure.v1 import Failure

    failure = Failure()
    await converter.encode_failure(ValueError("SO-1 is taken"), failure)

    assert b"SO-1" not in failure.SerializeToString()
    # Also for who only decrypts.
    told = await data_converter([NEW]).decode_failure(failure)
    assert "SO-1 is taken" in str(told)


def test_keys_are_read_as_they_are_printed():
    assert parse(f"{OLD.entry()}, {NEW.entry()}") == (OLD, NEW)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ("2026", "entry 1 isn't ID:KEY"),
        (f"{OLD.entry()},2026:tooshort", "entry 2 isn't ID:KEY"),
        (f"{OLD.entry()},{OLD.entry()}", "two keys have the same id"),
    ],
    ids=["no key", "too short", "twice"],
)
def test_what_is_no_key_is_refused_without_being_told(entries: str, why: str):
    with pytest.raises(ValueError, match=why) as refused:
        parse(entries)

    assert OLD.entry().partition(":")[2] not in str(refused.value)


def test_a_key_doesn_t_show_itself():
    assert NEW.entry().partition(":")[2] not in repr(NEW)
    assert repr(NEW) == "PayloadKey(id='2026')"


def test_an_id_that_can_t_be_one_is_refused():
    with pytest.raises(ValueError, match="1 to 64"):
        generate("a:b")

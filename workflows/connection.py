"""How every process of Waybill reaches Temporal.

Temporal's client says what is wrong in the notation of its own libraries; here it is told for who has to mend it.
"""

from collections.abc import Mapping
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.runtime import Runtime

# What to look for in the client's words, and what it means. The first one that is found counts.
_MEANINGS = (
    ("InvalidContentType", "TLS is on (by TEMPORAL_TLS* or TEMPORAL_API_KEY), but the server talks without it"),
    ("UnknownIssuer", "who has signed the server's certificate isn't known: see TEMPORAL_TLS_SERVER_CA_CERT_PATH"),
    ("NotValidForName", "the server's certificate is for another name: see TEMPORAL_TLS_SERVER_NAME"),
    ("InvalidCertificate", "the server's certificate is not valid"),
    ("PrivateKeyParseError", "the client's certificate or key can't be read: see TEMPORAL_TLS_CLIENT_*"),
    ("Unauthenticated", "the server refuses the client: see TEMPORAL_API_KEY and TEMPORAL_TLS_CLIENT_*"),
    ("PermissionDenied", "the server refuses the client: see TEMPORAL_API_KEY and TEMPORAL_NAMESPACE"),
    ("get_system_info", "the server has cut the connection: it may want TLS (TEMPORAL_TLS) or a client's certificate"),
    ("dns error", "no such host"),
    ("Connection refused", "connection refused"),
)


async def connect(
    config: Mapping[str, Any],
    *,
    converter: DataConverter = pydantic_data_converter,
    lazy: bool = False,
    runtime: Runtime | None = None,
) -> Client:
    """A client as TEMPORAL_* say (settings.temporal()); `converter` may encrypt (workflows.encryption), `runtime` may
    count and time what the client and its workers do (core_metrics).

    With `lazy` it connects when it is first needed. Otherwise raises ConnectionError, in one line, if the server isn't
    there, or these settings won't do.
    """
    try:
        return await Client.connect(**config, data_converter=converter, lazy=lazy, runtime=runtime)
    except (RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ConnectionError(f"no Temporal at {config['target_host']}: {_meaning(told)}") from None


def _meaning(told: str) -> str:
    return next((meaning for sign, meaning in _MEANINGS if sign in told), told)

"""What the server has to know before the first order comes: the namespace, and the search attributes of order runs."""

import asyncio
from datetime import timedelta

import structlog
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from workflows.order import BUSINESS_PARTNER, ORDER_NUMBER, ORDER_STATUS

log = structlog.get_logger(__name__)

NAMES = tuple(key.name for key in (ORDER_NUMBER, ORDER_STATUS, BUSINESS_PARTNER))
"""Keywords, all of them."""

_KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
# Closed runs are for people to look at; the events of their orders stay for ever.
_RETENTION = timedelta(days=7)
# A server reads the list of its namespaces, and that of search attributes, every now and then.
_KNOWN_WITHIN = 60.0
_LOOK = 0.5
_NOT_ALLOWED = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.UNIMPLEMENTED})


class NotRegistrable(Exception):
    """Something is missing on the Temporal server that this client can't add: the message says what, and how to."""


async def register(client: Client) -> list[str]:
    """Make the client's namespace and the search attributes, where they aren't there, and wait until they are known.

    Idempotent; gives what was made. Raises NotRegistrable where an administrator has to do it (Temporal Cloud).
    """
    made: list[str] = []
    if await _register_namespace(client):
        made.append(f"namespace {client.namespace}")
    deadline = asyncio.get_running_loop().time() + _KNOWN_WITHIN
    while True:
        try:
            made += await _add_missing(client)
            await client.count_workflows(" AND ".join(f"{name} = ''" for name in NAMES))
        except RPCError as error:
            if error.status in _NOT_ALLOWED:
                raise NotRegistrable(
                    f"this client may not add search attributes to namespace {client.namespace} ({error.message}): an "
                    f"administrator has to add {', '.join(NAMES)}, of type Keyword"
                ) from None
            # The one is said of a namespace, the other of a search attribute that isn't known yet.
            if error.status not in {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT}:
                raise
            if asyncio.get_running_loop().time() > deadline:
                raise
        else:
            return made
        await asyncio.sleep(_LOOK)


async def register_search_attributes(client: Client) -> None:
    """Add those that the namespace lacks; several workers may do so at once.

    Where that isn't allowed, the log says what an administrator has to do, once; a worker can work without.
    """
    try:
        if added := await _add_missing(client):
            log.info("worker.search_attributes_added", names=added)
    except (RPCError, NotRegistrable) as error:
        log.warning("worker.search_attributes_unknown", wanted=NAMES, reason=str(error))


async def _register_namespace(client: Client) -> bool:
    """Whether it was made now."""
    service = client.workflow_service
    try:
        await service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
    else:
        return False
    retention = Duration()
    retention.FromTimedelta(_RETENTION)
    try:
        await service.register_namespace(
            RegisterNamespaceRequest(namespace=client.namespace, workflow_execution_retention_period=retention)
        )
    except RPCError as error:
        if error.status == RPCStatusCode.ALREADY_EXISTS:
            return False
        if error.status in _NOT_ALLOWED:
            raise NotRegistrable(
                f"there is no namespace {client.namespace}, and this client may not make one ({error.message}): an "
                "administrator has to, or TEMPORAL_NAMESPACE names another"
            ) from None
        raise
    return True


async def _add_missing(client: Client) -> list[str]:
    """The names that were added now. Raises NotRegistrable if one of them is taken by another type."""
    operator = client.operator_service
    known = (
        await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    ).custom_attributes
    for name in NAMES:
        if known.get(name, _KEYWORD) != _KEYWORD:
            raise NotRegistrable(f"the search attribute {name} is not of type Keyword in namespace {client.namespace}")
    missing = [name for name in NAMES if name not in known]
    if not missing:
        return []
    try:
        await operator.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=dict.fromkeys(missing, _KEYWORD))
        )
    except RPCError as error:
        # Another worker was quicker.
        if error.status == RPCStatusCode.ALREADY_EXISTS:
            return []
        raise
    return missing

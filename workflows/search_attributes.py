"""The search attributes of order runs: known to the server before the first run names them."""

import structlog
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from workflows.order import BUSINESS_PARTNER, ORDER_NUMBER, ORDER_STATUS

log = structlog.get_logger(__name__)


async def register_search_attributes(client: Client) -> None:
    """Add those that the namespace lacks; several workers may do so at once.

    Where that isn't allowed (Temporal Cloud, say), an administrator adds them: the log names them, once.
    """
    wanted = {key.name for key in (ORDER_NUMBER, ORDER_STATUS, BUSINESS_PARTNER)}
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        if missing := wanted - set(known.custom_attributes):
            keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=client.namespace, search_attributes=dict.fromkeys(missing, keyword)
                )
            )
            log.info("worker.search_attributes_added", names=sorted(missing))
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            log.warning("worker.search_attributes_unknown", wanted=sorted(wanted), reason=str(error))

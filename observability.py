"""Logs as events with fields: JSON for machines, or lines for people, always on standard error."""

import logging
import sys
from typing import Literal

import structlog
from structlog.types import Processor


def configure_logging(level: str, log_format: Literal["json", "console"]) -> None:
    """Send everything that this process and its libraries log through one formatter."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(["workflow_id", "activity_type", "attempt"])],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Their debug is payloads: nobody's order numbers belong into a log.
    logging.getLogger("temporalio").setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("asyncpg.pool").addFilter(_without_traceback)
    # Their info is our debug.
    for noisy in ("httpx2", "httpcore2", "temporalio.activity", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))


def _without_traceback(record: logging.LogRecord) -> bool:
    """While PostgreSQL is away, asyncpg's pools say so at each try, with pages of traceback: the reason is enough."""
    if record.exc_info and record.exc_info[1]:
        record.msg = f"{record.getMessage()}: {type(record.exc_info[1]).__name__}"
        record.args, record.exc_info = (), None
    return True

"""What a running `waybill dev` tells others: dev.json in its data directory, there while all is ready."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

FILE = "dev.json"


class Pids(BaseModel):
    """The stack's processes; a restart changes them."""

    model_config = ConfigDict(frozen=True)

    postgres: int
    temporal: int
    api: int
    workers: list[int]


class Record(BaseModel):
    """How to reach a running stack."""

    model_config = ConfigDict(frozen=True)

    api_url: str
    temporal_address: str
    temporal_ui_url: str
    namespace: str
    task_queue: str
    event_store_url: str
    read_store_url: str
    pids: Pids

    def write(self, data_dir: Path) -> None:
        """A reader sees the old record or the new one, never half of one."""
        unfinished = data_dir / f"{FILE}.new"
        unfinished.write_text(self.model_dump_json(indent=2) + "\n")
        unfinished.replace(data_dir / FILE)

    @classmethod
    def read(cls, data_dir: Path) -> Self | None:
        """None while nothing is ready there."""
        try:
            return cls.model_validate_json((data_dir / FILE).read_text())
        except FileNotFoundError:
            return None

    @staticmethod
    def remove(data_dir: Path) -> None:
        (data_dir / FILE).unlink(missing_ok=True)

"""A slice of `make chaos`: one pack of all faults on a whole stack, and all its checks."""

import pytest

from proof.report import passed, told
from proof.run import Storm, run


@pytest.mark.slow
async def test_whatever_is_killed_paused_or_cut_off_nothing_acknowledged_is_lost_or_done_twice(tmp_path):
    found = await run(Storm(seed=1, seconds=0, apart=2, longest=2), tmp_path)
    assert passed(found), told(found)

"""Garbage is looked for seldom."""

import subprocess
import sys

# In a process of its own: this one goes on to make garbage of its own.
_SCRIPT = """
import gc
from garbage import collect_seldom

class Link:
    pass

def make(links):
    for _ in range(links):
        link = Link()
        link.itself = link

collect_seldom()
assert gc.get_freeze_count() > 1000, "what is loaded is looked through"
make(5_000)
print(sum(isinstance(each, Link) for each in gc.get_objects()), end=" ")
make(500_000)
print(sum(isinstance(each, Link) for each in gc.get_objects()) < 50_000)
"""


def test_garbage_is_looked_for_seldom_but_does_not_pile_up() -> None:
    told = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["5000", "True"]

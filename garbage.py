"""How often Python looks for garbage that refers to itself: seldom, in processes whose work makes hardly any of it."""

import gc

_NEW_OBJECTS = 10_000
"""More allocations than frees between two looks: a page of events, or an order with its items, is over by then."""
_YOUNGER_LOOKS = 20


def collect_seldom() -> None:
    """What is loaded now stays and is never looked through again; the rest less often. Once, when all is imported.

    Left as it is, a fifth to a third of the time of reading events goes into looking at them for garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNGER_LOOKS, _YOUNGER_LOOKS)

"""What stops `waybill dev` from starting: its message is one line for a person, and says what helps."""


class DevError(Exception):
    """The stack can't run here, or not like this."""

"""Properties are checked on the same examples in every run: a failure is one that everybody can repeat."""

from hypothesis import settings

settings.register_profile("waybill", derandomize=True, deadline=None, database=None, max_examples=200)
settings.load_profile("waybill")

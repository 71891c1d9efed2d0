"""They want Docker and minutes, so they are not of the suite: `make test-containers` runs them."""

import os

collect_ignore_glob = [] if os.environ.get("WAYBILL_TEST_CONTAINERS") else ["test_*.py"]

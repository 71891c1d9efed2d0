"""`python -m api`: the gateway as a process."""

import sys

import settings
from api.app import serve

if __name__ == "__main__":
    try:
        serve(settings.load())
    except (settings.SettingsError, ConnectionError) as error:
        sys.exit(f"waybill api: {error}")

"""/docs: the API's documentation, from this host alone, and with no script but its own."""

import hashlib
import re
from base64 import b64encode

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html

_STATIC = "/static-offline-docs"
"""Where fastapi-offline serves Swagger UI's files."""


def serve_docs(app: FastAPI) -> None:
    """Serve the page, with a policy that allows the one script in it, by its hash, and nothing of another host."""
    page = bytes(
        get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Waybill",
            swagger_js_url=f"{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{_STATIC}/favicon.png",
        ).body
    ).decode()
    scripts = [
        hashlib.sha256(script.encode()).digest() for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    ]
    hashes = " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in scripts)
    policy = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; frame-ancestors 'none'"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page, headers={"Content-Security-Policy": policy}, media_type="text/html")

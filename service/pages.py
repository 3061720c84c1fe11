"""The console at ``/`` and the documentation of the API at ``/docs``, with all that they need: no page asks another host for anything."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

CONSOLE = Path(str(files("service") / "console"))
SWAGGER_UI = Path(str(files("service") / "swagger_ui"))
POLICY = {
    "default-src": "'self'",
    "img-src": "'self' blob: data:",  # thumbnails of files that the user chose, symbols in a stylesheet
    "object-src": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    "form-action": "'self'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{directive} {sources}" for directive, sources in POLICY.items()),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and sent again only where it is another: parts of one release go together
}


class Assets(StaticFiles):
    """The files of a folder, with the headers of our pages."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(HEADERS)
        return response


def add(app: FastAPI) -> None:
    app.mount("/assets/docs", Assets(directory=SWAGGER_UI), name="docs-assets")
    app.mount("/assets/console", Assets(directory=CONSOLE), name="console-assets")

    @app.get("/", include_in_schema=False)
    def console() -> FileResponse:
        return FileResponse(CONSOLE / "index.html", headers=HEADERS)

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(CONSOLE / "docs.html", headers=HEADERS)

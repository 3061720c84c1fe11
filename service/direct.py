"""A way past FastAPI, for the requests that come most often."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import REFUSALS, refusal

MOST_FOUND, LONGEST = 1024, 512  # paths with their queries that are remembered, and characters of one

Answer = Callable[
    [Request, Mapping[str, str], Any], Awaitable[Response]
]  # of a request, from the parts of its path and what its query says


@dataclass(frozen=True, slots=True)
class DirectRoute:
    """A way for POST to the same place as one of FastAPI's routes: finding and validating that takes longer than scoring a row.

    It is taken by what is plainly right: a path whose parts match ``patterns`` whole, and a query of which ``read`` makes
    something other than None.
    """

    path: str  # template, as FastAPI's route has it
    patterns: Mapping[str, re.Pattern[str]]
    answer: Answer
    read: Callable[[bytes], Any] = lambda query: query


class Direct:
    """ASGI middleware that answers what a direct route takes, and leaves all else to FastAPI, to be refused in its words.

    Refusals are answered as FastAPI's routes have them. It stands behind all that guards both: dependencies of FastAPI's
    routes are not asked here. Where requests are traced it stands aside, for that is what FastAPI does.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[DirectRoute]) -> None:
        self._app = app
        self._routes = [(compile_path(route.path)[0], route) for route in routes]
        self._find = lru_cache(MOST_FOUND)(self.find)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and scope["method"] == "POST" and scope.get("fastapi.telemetry") is None:
            path, query = scope["path"].removeprefix(scope.get("root_path", "")), scope["query_string"]
            found = self._find(path, query) if len(path) + len(query) <= LONGEST else None
        if found is None:
            await self._app(scope, receive, send)
            return
        route, parts, given = found
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.answer(request, parts, given)
        except REFUSALS as error:
            response = refusal(request, error)
        await response(scope, receive, send)

    def find(self, path: str, query: bytes) -> tuple[DirectRoute, Mapping[str, str], Any] | None:
        """The route that takes a request, the parts of its path, and what its query says."""
        for pattern, route in self._routes:
            parts = match.groupdict() if (match := pattern.match(path)) else None
            if parts is not None and all(route.patterns[name].fullmatch(part) for name, part in parts.items()):
                given = route.read(query)
                return None if given is None else (route, parts, given)
        return None

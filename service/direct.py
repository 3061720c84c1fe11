"""Routes past FastAPI, for the requests that come most often."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

Answer = Callable[[Request, Any], Awaitable[Response]]


class DirectRoute(Route):
    """A way for POST to the same place as one of FastAPI's routes: finding and validating that takes longer than scoring a row.

    It matches only what is plainly right: a path whose parts match ``patterns`` whole, and a query of which ``read`` makes
    something other than None, which ``answer`` is given beside the request. All else goes on to FastAPI's route, to be refused
    in its words. What guards both has to be a middleware: dependencies of FastAPI's route are not asked here.
    """

    def __init__(
        self, path: str, patterns: Mapping[str, re.Pattern[str]], answer: Answer, read: Callable[[bytes], Any] = lambda query: query
    ) -> None:
        super().__init__(path, answer, methods=["POST"], include_in_schema=False)
        self._patterns, self._answer, self._read = patterns, answer, read

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] != "POST":
            return Match.NONE, {}
        match, found = super().matches(scope)
        if match is Match.NONE or not self._plain(found["path_params"]) or self._read(scope["query_string"]) is None:
            return Match.NONE, {}
        return match, {**found, "route": self}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive, send), self._read(scope["query_string"]))
        await response(scope, receive, send)

    def _plain(self, given: Mapping[str, str]) -> bool:
        return all(self._patterns[key].fullmatch(value) for key, value in given.items())

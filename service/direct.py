"""Routes past FastAPI, for the requests that come most often."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

Answer = Callable[[Request, Any], Awaitable[Response]]
MOST_PATHS, LONGEST_PATH = 1024, 512  # paths remembered by each route, and characters of one


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
        self._found = lru_cache(MOST_PATHS)(self._plain)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] != "POST":
            return Match.NONE, {}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        given = self._found(path) if len(path) <= LONGEST_PATH else None
        if given is None or self._read(scope["query_string"]) is None:
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {**scope.get("path_params", {}), **given}, "route": self}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive, send), self._read(scope["query_string"]))
        await response(scope, receive, send)

    def _plain(self, path: str) -> Mapping[str, str] | None:
        """The parts of a path, where all of them are what they should be."""
        found = self.path_regex.match(path)
        given = found.groupdict() if found else {}
        return given if found and all(self._patterns[key].fullmatch(value) for key, value in given.items()) else None

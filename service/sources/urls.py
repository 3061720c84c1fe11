"""Paths and URLs as texts: what kind they are, and what of them people may see."""

from __future__ import annotations

import posixpath
import re

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
URL = re.compile(r"((?:https?)?://)(\S*)", re.IGNORECASE)  # in a text; of which scheme it is matters only for the web
HOST = re.compile(r"(\[[^\]@]*\]|[^@:/?#\[]*)(:\d*)?([/?#]|\Z)")
END = re.compile(r"[?#]")  # of the path of a URL


def suffix(url: str) -> str:
    """Lower-case suffix of a path or URL, with that under a ``.gz``.

    >>> suffix("s3://bucket/day.1/rows.CSV.gz?version=3")
    '.csv.gz'
    """
    stem, last = posixpath.splitext(_path(url).rsplit("/", 1)[-1].lower())
    return posixpath.splitext(stem)[1] + last if last == ".gz" else last


def shown_url(url: str) -> str:
    """A path or URL for people: without user, password and the query of a web address, which may let others in.

    Where more than a host and a port stands before the path, all up to the last ``@`` is taken for a user and a password;
    where that might as well stand in a query, nothing but the scheme is shown, and so of a URL within the URL.

    >>> shown_url("https://me:se/c@ret@host/rows.npy?signature=1234"), shown_url("s3://bucket/a@b/rows-?.npy")
    ('https://host/rows.npy', 's3://bucket/a@b/rows-?.npy')
    >>> shown_url("https://[host/rows.npy?mail=me@secret"), shown_url("s3://bucket/rows::https://me:secret@host/")
    ('https://…', 's3://bucket/rows::https://…')
    """
    scheme = SCHEME.match(url)
    return scheme[0] + _open_part(url[scheme.end() :], web=is_web(url)) if scheme else shown(url)


def shown(text: str) -> str:
    """A text with URLs for people, as ``shown_url`` has them; all up to white space is taken for part of a URL.

    >>> shown("GET https://me:secret@host/rows.npy?signature=1234 failed")
    'GET https://host/rows.npy failed'
    """
    return URL.sub(lambda found: found[1] + _open_part(found[2], web=found[1] != "://"), text)


def _open_part(rest: str, *, web: bool) -> str:
    """What of a URL, ``rest`` after its scheme, anyone may see."""
    path, *query = END.split(rest, maxsplit=1)
    if not HOST.match(rest):
        return "…" if "@" in "".join(query) else path.rpartition("@")[2]
    before, within, _ = (rest.partition("?")[0] if web else rest).partition("://")
    return before + within + ("…" if within else "")


def _path(url: str) -> str:
    """Of what may turn out to be no URL too."""
    scheme = SCHEME.match(url)
    return END.split(url[scheme.end() :], maxsplit=1)[0].partition("/")[2] if scheme else url


def scheme_of(url: str) -> str:
    found = SCHEME.match(url)
    return found[1].lower() if found else "file"


def is_local(url: str) -> bool:
    return scheme_of(url) == "file"


def is_web(url: str) -> bool:
    return scheme_of(url) in ("http", "https")

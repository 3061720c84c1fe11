"""Where the bytes lie: files of this machine and of any fsspec URL, found by name, listed and opened."""

from __future__ import annotations

import glob
import hashlib
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit

import fsspec

from service.errors import InvalidInput, SourceUnavailable
from service.sources.tries import again, may_pass
from service.sources.urls import SCHEME, is_local, is_web, scheme_of, shown, shown_url, suffix

WILD = re.compile(r"[*?\[]")
MARKS = ("ETag", "etag", "md5Hash", "Content-MD5", "checksum", "LastModified", "Last-Modified", "mtime", "created")
NO_FILE = -1  # the size of what is listed and is no regular file: a link that leads nowhere, a pipe
LOCAL = ("file",)


@dataclass(frozen=True, slots=True)
class File:
    """A file as its listing has it; ``url`` of a file of this machine is its path."""

    url: str
    name: str  # below the folder in which it was found, or of several places the one that all of them are in
    size: int  # bytes, or NO_FILE
    mark: str  # the first of MARKS that the listing has: it changes when the content does
    key: str = ""  # the name, see ``_told_apart``

    @property
    def local(self) -> bool:
        return SCHEME.match(self.url) is None

    @property
    def shown(self) -> str:
        """The URL for people."""
        return shown_url(self.url)

    @property
    def suffix(self) -> str:
        """In lower case, with that under a ``.gz``: ``.csv.gz``."""
        return suffix(self.url)

    def open(self) -> IO[bytes]:
        """A file object that can seek; what it reads from a network it tries ``again`` to read."""
        if self.local:
            return Path(self.url).open("rb")
        system, path = _system(self.url)
        opened = again(system.open, path, "rb")
        if (cache := getattr(opened, "cache", None)) is not None:  # which asks the network for what it lacks
            cache.fetcher = partial(again, cache.fetcher)
        return cast("IO[bytes]", opened)


def listed(urls: str | os.PathLike[str] | Sequence[str], allow: Sequence[str] = LOCAL) -> list[File]:
    """All files of a path, URL, glob or folder, or of several in the order given; those of a glob or folder by name.

    ``allow`` has schemes (``"s3"``, ``"file"`` for paths of this machine) and prefixes (``"https://host/data/"``,
    ``"/data"``). A URL is under a prefix if scheme and host are the same and its path goes on where that of the
    prefix ends; links among paths are followed first. Raises InvalidInput for what is not allowed or not there.
    """
    given = [os.fspath(urls)] if isinstance(urls, str | os.PathLike) else list(urls)
    if not given or not all(given):
        raise InvalidInput("no data are named: give a path or URL")
    found: list[tuple[str, list[File]]] = []
    for url in given:
        checked(url, allow)
        found.append(_local(url.removeprefix("file://"), allow) if is_local(url) else _remote(url))
    return _told_apart(found)


def checked(url: str, allow: Sequence[str]) -> None:
    """Raises InvalidInput, naming ``allow``, unless an entry of it lets ``url`` be read."""
    if "\0" in url:
        raise InvalidInput("a path or URL holds a NUL character, which none can")
    scheme = "file" if is_local(url) else scheme_of(url)
    if scheme != "file":
        try:
            urlsplit(url)
        except ValueError:  # which may name the user and the password
            raise InvalidInput(f"{shown_url(url)} is no URL: the host is none") from None
    if scheme not in allow and not any(_under(url, prefix) for prefix in allow):
        raise InvalidInput(f"{shown_url(url)} is not read: neither the scheme {scheme!r} nor a prefix of it is in allow={list(allow)}")
    if scheme != "file" and ("::" in url or "@" in urlsplit(url).netloc or ".." in unquote(urlsplit(url).path).split("/")):
        raise InvalidInput(f"{scheme} URLs with '::', '..' or a user name in them are not read")


def schemes(places: Iterable[str]) -> list[str]:
    """What the data of a command may be read from: the schemes that its user has named, and files of this machine.

    >>> schemes(["rows.npy", "S3://bucket/day-*.parquet"])
    ['file', 's3']
    """
    return [*LOCAL, *(match[1].lower() for place in places if (match := SCHEME.match(place)))]


def options(url: str) -> dict[str, Any]:
    """What the fsspec file system of a URL is opened with: redirects are not followed, for one could lead out of what is allowed."""
    return {"allow_redirects": False} if is_web(url) else {}


def digest(files: Iterable[File], schema: str) -> str:
    """sha256 (hex) over ``schema`` and the name, size and mark of each file, in order."""
    summed = hashlib.sha256(schema.encode())
    for file in files:
        summed.update(f"\n{len(file.name)}:{file.name} {file.size} {file.mark}".encode())
    return summed.hexdigest()


def _under(url: str, prefix: str) -> bool:
    if "/" not in prefix or is_local(url) != is_local(prefix):
        return False
    if is_local(url):
        return Path(url.removeprefix("file://")).resolve().is_relative_to(Path(prefix.removeprefix("file://")).resolve())
    whole, start = urlsplit(url), urlsplit(prefix)
    same = (scheme_of(url), whole.netloc) == (scheme_of(prefix), start.netloc)
    return same and f"{whole.path}/".startswith(f"{start.path.rstrip('/')}/")


def _told_apart(places: Sequence[tuple[str, list[File]]]) -> list[File]:
    """The files of all places, each a folder with its files, by their names below the folder that all of these are in.

    The key of a web address is its name without the query, which may let others in and be another one next time. Where several
    differ in it alone, the second of them in the order given has ``?2`` instead, and so on.
    """
    folders = [folder.split("/") for folder, _ in places]
    shared = len(os.path.commonprefix(folders))  # noqa: RUF071  of lists, name by name
    queries: dict[str, dict[str, int]] = {}
    told = []
    for folder, (_, files) in zip(folders, places, strict=True):
        for file in files:
            name = key = posixpath.join(*folder[shared:], file.name)
            if is_web(file.url):
                key = name.partition("?")[0]
                alike = queries.setdefault(key, {})
                number = alike.setdefault(name, len(alike) + 1)
                key += f"?{number}" if number > 1 else ""
            told.append(replace(file, name=name, key=key))
    return told


def _local(path: str, allow: Sequence[str]) -> tuple[str, list[File]]:
    """The folder that all files of a place are in, and the files."""
    if Path(path).is_dir():
        found, folder = _walk(path), path
    elif Path(path).exists() or not WILD.search(path):
        found, folder = [path], str(Path(path).parent)
    else:
        found = sorted(name for name in glob.glob(path, recursive=True) if not Path(name).is_dir())  # noqa: PTH207  absolute too
        folder = _folder(path)
        if not found:
            raise InvalidInput(f"no file is named like {shown_url(path)}")
    return os.path.abspath(folder), [_local_file(name, folder, allow) for name in found]  # noqa: PTH100  links stay


def _local_file(name: str, folder: str, allow: Sequence[str]) -> File:
    if "file" not in allow:
        try:
            checked(name, allow)
        except InvalidInput:  # which names all that is allowed
            raise InvalidInput(f"{shown_url(name)} is not read: it is a link that leads out of what may be read") from None
    try:
        about = Path(name).stat()
    except OSError as error:
        if not Path(name).is_symlink():
            raise InvalidInput(f"{shown_url(name)} {_why(error)}") from None
        return File(name, os.path.relpath(name, folder or "."), NO_FILE, "")  # a link that leads nowhere
    return File(name, os.path.relpath(name, folder or "."), about.st_size if S_ISREG(about.st_mode) else NO_FILE, str(about.st_mtime_ns))


def _why(error: OSError) -> str:
    return "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"


def _folder(pattern: str) -> str:
    """The folder that all files of a glob are in."""
    return WILD.split(pattern, maxsplit=1)[0].rpartition("/")[0]


def _walk(folder: str) -> list[str]:
    """All files in a folder and below, by name; links to folders are followed, into each folder once."""
    inside, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True, onerror=_not_listed):
        folders.sort()
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        inside += [str(Path(where, name)) for name in names]
    return sorted(inside, key=lambda name: Path(name).parts)


def _not_listed(error: OSError) -> None:
    raise InvalidInput(f"{shown_url(str(error.filename))} cannot be listed: {error.strerror}") from None


def _system(url: str) -> tuple[Any, str]:
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options(url))
    except ImportError as error:
        raise InvalidInput(f"{scheme_of(url)} URLs need a package that is not installed: {error}") from None
    except ValueError as error:
        raise InvalidInput(f"{shown_url(url)} cannot be read: {shown(str(error))}") from None
    return found


def _remote(url: str) -> tuple[str, list[File]]:
    """The folder that all files of a place are in, and the files."""
    system, path = _system(url)
    folder = (path.partition("?")[0] if is_web(url) else path).rpartition("/")[0]
    try:
        if not is_web(url) and WILD.search(path):
            found, folder = again(system.glob, path, detail=True), _folder(path)
        elif not is_web(url) and again(system.isdir, path):
            found, folder = again(system.find, path, detail=True), path
        else:
            found = {path: again(system.info, path)}
    except FileNotFoundError as error:
        raise (SourceUnavailable if may_pass(error) else InvalidInput)(f"{shown_url(url)} {_missing(error.__cause__)}") from None
    except Exception as error:  # noqa: BLE001  each file system has errors of its own
        kind = SourceUnavailable if may_pass(error) else InvalidInput
        raise kind(f"{shown_url(url)} cannot be listed: {type(error).__name__}: {shown(str(error))}") from None
    files = [_listing(system, name, folder, about) for name, about in sorted(found.items()) if about["type"] == "file"]
    if not files:
        raise InvalidInput(f"no file is named like {shown_url(url)}")
    return str(system.unstrip_protocol(folder)), files


def _missing(cause: BaseException | None) -> str:
    """What is wrong with a URL that is not found: the web's file system says so of whatever answer is not the file, and of none."""
    status = getattr(cause, "status", None)
    if cause is None or status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return "does not exist"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"may not be read from here: the server answers {status} {HTTPStatus(status).phrase}"
    if status:
        return f"cannot be read: the server answers {status}"
    number = getattr(getattr(cause, "os_error", cause), "errno", None) or 0
    return f"cannot be reached: {os.strerror(number) if number > 0 else shown(str(cause)) or type(cause).__name__}"


def _listing(system: Any, path: str, folder: str, about: dict[str, Any]) -> File:
    url = str(system.unstrip_protocol(path))
    if about.get("size") is None or (is_web(url) and not about["size"]):
        raise InvalidInput(f"{shown_url(url)} tells no size, which is needed to read parts of it; redirects are not followed")
    mark = next((str(about[mark]) for mark in MARKS if about.get(mark)), "")
    return File(url, path.removeprefix(folder).lstrip("/"), int(about["size"]), mark)

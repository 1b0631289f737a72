"""What is said to Orthanc over HTTP from within Orthanc: only that for which the SDK's own functions are not enough.

Standard library only; `archive` is the way for all other processes.
"""

from __future__ import annotations

from email.message import Message
from http import HTTPStatus
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from plugin.marks import METADATA
from plugin.settings import Connection

SECONDS = 10.0
TRIES = 3


def unmark(connection: Connection, instance: str) -> None:
    """Put `null` in the mark's place, which the change log tells, where Orthanc wants to know what it replaces.

    To delete it afterwards would undo a claim: a worker may begin at once.

    :raises LookupError: if there is no such instance.
    """
    path = f"/instances/{instance}/metadata/{METADATA}"
    for left in reversed(range(TRIES)):
        try:
            _ask(connection, "PUT", path, _revision(connection, path), b"null")
            return
        except HTTPError as answer:
            if answer.code == HTTPStatus.NOT_FOUND:
                raise LookupError(instance) from None
            if answer.code != HTTPStatus.CONFLICT or not left:  # a worker may have written it just now
                raise


def _revision(connection: Connection, path: str) -> str:
    try:
        return str(_ask(connection, "GET", path).get("ETag", ""))
    except HTTPError as answer:
        if answer.code == HTTPStatus.NOT_FOUND:
            return ""
        raise


def _ask(connection: Connection, method: str, path: str, revision: str = "", body: bytes | None = None) -> Message:
    headers = {"Authorization": connection.authorization} | ({"If-Match": revision} if revision else {})
    request = Request(connection.url + path, body, headers, method=method)  # noqa: S310 - our own address
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=connection.trust()))
    with opener.open(request, timeout=SECONDS) as answer:
        answer.read()
        found: Message = answer.headers
        return found

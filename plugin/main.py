"""What Orthanc loads: settings, callbacks and routes. The only module that imports `orthanc`.

Nothing runs in an uploading thread: what arrives is heard of through OnChange, which has a thread of its own and rings
a bell. (OnStoredInstance runs under Orthanc's global lock and waits for Python's.) The standard library alone is
imported, so that Orthanc starts at once and stays small.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # Orthanc puts only this folder there

import orthanc  # noqa: E402

from plugin import __version__, loopback, marks, query, routes  # noqa: E402
from plugin.companion import Companion  # noqa: E402
from plugin.query import File  # noqa: E402
from plugin.settings import SECTION, BadSetting, Connection, Settings  # noqa: E402
from plugin.thread_state import KeptThreadState  # noqa: E402

LONGEST_WAIT = 1.5  # seconds
BETWEEN_WRITES = 2.0  # seconds between two writings of the position in the change log

UNKNOWN_RESOURCE = (7, 17)
"""Orthanc's error codes for a REST path that leads nowhere: InexistentItem and UnknownResource."""


class OrthancIndex:
    """Orthanc's own index, asked within this process; see `routes.Index`."""

    def __init__(self, connection: Connection) -> None:
        """`connection` is for what the SDK cannot do."""
        self._connection = connection

    def get(self, path: str) -> Any:
        """:raises LookupError: if there is no such resource."""
        return json.loads(_found(orthanc.RestApiGet, path))

    def unmark(self, instance: str) -> None:
        """:raises LookupError: if there is no such instance."""
        if self._connection.shared:
            loopback.unmark(self._connection, instance)
            return
        path = f"/instances/{instance}/metadata/{marks.METADATA}"
        _found(orthanc.RestApiPut, path, "null")
        with suppress(LookupError):  # somebody else asked for the same just now
            _found(orthanc.RestApiDelete, path)


def _found(call: Any, *arguments: str) -> bytes:
    try:
        answer: bytes = call(*arguments)
    except orthanc.OrthancException as problem:
        if problem.args[0] in UNKNOWN_RESOURCE:
            raise LookupError(arguments[0]) from None
        raise
    return answer


class Plugin:
    """What the callbacks share: the process beside Orthanc, and what it last said."""

    def __init__(self, settings: Settings, configuration: dict[str, Any]) -> None:
        """Nothing is started before Orthanc is."""
        self._settings = settings
        self._connection = Connection.to_orthanc(configuration, orthanc.GenerateRestApiAuthorizationToken())
        self._thread_state = KeptThreadState()
        self._companion: Companion | None = None
        self._early: list[str] = []
        self._since = 0
        self._written = -BETWEEN_WRITES
        self._index = OrthancIndex(self._connection)
        self._status: dict[str, Any] = {"ready": False, "reason": "Orthanc is starting", "workers": 0}
        self._worklist = File()

    def on_change(self, change: int, level: int, resource: str) -> None:
        """Start and stop with Orthanc, ring when something arrives, and pass on what the change log does not tell."""
        if change == orthanc.ChangeType.NEW_INSTANCE:
            if self._companion:
                self._companion.tell()
            else:
                self._early.append(resource)
        elif change == orthanc.ChangeType.ORTHANC_STARTED:
            self._thread_state.enter()
            self._start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._thread_state.leave()
            if self._companion:
                self._companion.stop()
        elif change == orthanc.ChangeType.DELETED and level == orthanc.ResourceType.INSTANCE and self._companion:
            self._companion.tell({"deleted": resource})

    def _start(self) -> None:
        # What is older than the plugin's first start stays as it is, until somebody asks for it.
        position = orthanc.GetGlobalProperty(marks.POSITION, "")
        self._since = int(position) if position else self._index.get("/changes?last")["Last"]
        command = [self._settings.Python or _interpreter(), "-m", "plugin"]
        self._companion = Companion(command, ROOT, self._first_message, self._hear)

    def _first_message(self) -> dict[str, Any]:
        return {
            "connection": asdict(self._connection),
            "settings": self._settings.as_json(),
            "since": self._since,
            "instances": self._early,
            "backfill": _backfill(),
        }

    def _hear(self, what: str, value: Any) -> None:
        match what:
            case "info":
                orthanc.LogInfo(f"Chest X-ray: {value}")
            case "warning":
                orthanc.LogWarning(f"Chest X-ray: {value}")
            case "status":
                self._status = value
            case "metrics":
                for name, number in value.items():
                    orthanc.SetMetricsValue(name, float(number), orthanc.MetricsType.DEFAULT)
            case "worklist":
                self._worklist = File(*value)
            case "position":
                self._since = value
                # Not each time: uploads wait for it, and an older one costs no more than a second look.
                if time.monotonic() >= self._written + BETWEEN_WRITES:
                    self._written = time.monotonic()
                    orthanc.SetGlobalProperty(marks.POSITION, str(value))
            case "backfill":
                orthanc.SetGlobalProperty(marks.BACKFILL, "")
            case "ended":
                reason = f"The classifying process has ended; it is started again in {value:.0f} s"
                self._status = {**self._status, "ready": False, "reason": reason}
                orthanc.SetMetricsValue("chest_xray_ready", 0.0, orthanc.MetricsType.DEFAULT)
                self._worklist = File()  # one that nobody keeps in step is worse than none
                orthanc.LogWarning(f"Chest X-ray: {reason}")

    def on_instance(self, output: Any, _uri: str, **request: Any) -> None:
        """`GET` and `POST /instances/{id}/chest-xray`."""
        instance = request["groups"][0]
        if request["method"] == "GET":
            _send(output, routes.result(self._index, self._status, instance))
        elif request["method"] == "POST":
            _send(output, routes.again(self._index, self._status, instance, request["headers"]))
            if self._companion:
                self._companion.tell()
        else:
            output.SendMethodNotAllowed("GET,POST")

    def on_page(self, output: Any, _uri: str, **request: Any) -> None:
        """`GET /chest-xray` and what is below it."""
        name = request["groups"][0] if request["groups"] and request["groups"][0] else ""
        if name == "backfill":
            self._on_backfill(output, request)
        elif request["method"] != "GET":
            output.SendMethodNotAllowed("GET")
        else:
            try:
                _send(output, self._answer(name, request["get"]))
            except sqlite3.Error as problem:
                _send(output, routes.unreadable(problem))

    def _answer(self, name: str, wish: dict[str, str]) -> routes.Reply:
        """`GET` of everything below /chest-xray."""
        match name.split("/"):
            case ["status"]:
                begun = self._status.get("backfill") or {"series": 0, "looked_at": 0}
                now = {"backfill": None if _backfill() is None else begun, "version": __version__}
                return routes.health({**self._status, **now}, self._worklist)
            case ["worklist"]:
                return routes.page_of_worklist(self._worklist, wish)
            case ["results"]:
                self._catch_up()
                return routes.results(self._worklist, wish)
            case ["prior"]:
                return routes.prior(self._index, self._worklist, wish.get("instance", ""))
            case ["of", resource]:
                return routes.about(self._index, resource)
            case _:
                return routes.page(name)

    def _catch_up(self) -> None:
        """Wait until the worklist has every mark that was there when somebody asked, but not for long."""
        if not self._companion or not self._worklist.complete:
            return
        end, last = time.monotonic() + LONGEST_WAIT, self._index.get("/changes?last")["Last"]
        self._companion.tell()
        while query.position(self._worklist) < last and time.monotonic() < end:
            time.sleep(0.02)

    def _on_backfill(self, output: Any, request: dict[str, Any]) -> None:
        """`POST` and `DELETE /chest-xray/backfill`."""
        if request["method"] not in ("POST", "DELETE"):
            output.SendMethodNotAllowed("POST,DELETE")
            return
        body = request.get("body", b"") if request["method"] == "POST" else None
        reply, dates = routes.backfill(body, request["headers"])
        if reply.status == HTTPStatus.ACCEPTED:
            orthanc.SetGlobalProperty(marks.BACKFILL, "" if dates is None else json.dumps(dates))
            if self._companion:
                self._companion.tell({"backfill": dates})
        _send(output, reply)


def _backfill() -> str | None:
    """The dates of an unfinished one."""
    dates: str | None = json.loads(orthanc.GetGlobalProperty(marks.BACKFILL, "") or "null")
    return dates


def _interpreter() -> str:
    """The project's own interpreter where there is one; inside Orthanc, `sys.executable` is Orthanc."""
    own = ROOT / ".venv/bin/python"
    return str(own) if own.exists() else shutil.which("python3") or "python3"


def _send(output: Any, reply: routes.Reply) -> None:
    for name, value in routes.HEADERS.items():
        output.SetHttpHeader(name, value)
    if reply.status == 200:
        output.AnswerBuffer(reply.body, reply.type)
    else:
        output.SetHttpHeader("Content-Type", reply.type)
        try:
            output.SendHttpStatus(int(reply.status), reply.body)
        except TypeError:  # Python plugin 4.0, which wants a text and its length in bytes
            output.SendHttpStatus(int(reply.status), reply.body.decode(), len(reply.body))


def _install() -> None:
    # Python has taken Ctrl-C for itself by now; until Orthanc takes it back, it is to end the program as usual.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    configuration = json.loads(orthanc.GetConfiguration())
    try:
        plugin = Plugin(Settings.read(configuration.get(SECTION, {})), configuration)
    except BadSetting as sentence:
        orthanc.LogError(f"Chest X-ray: {sentence}")
        raise SystemExit(str(sentence)) from None  # which stops Orthanc
    orthanc.RegisterOnChangeCallback(plugin.on_change)
    _route("/instances/([0-9a-f-]+)/chest-xray", plugin.on_instance)
    _route("/chest-xray(?:/([ -~]*))?", plugin.on_page)  # the Python plugin fails on a path that is not UTF-8
    orthanc.ExtendOrthancExplorer((routes.WEB / "explorer.js").read_text())


def _route(pattern: str, callback: Any) -> None:
    # Python plugin 5.0 lets go of them when the interpreter is no more; were they not kept here, it would crash then.
    _KEPT.append(callback)
    orthanc.RegisterRestCallback(pattern, callback)


_KEPT: list[Any] = []
_install()

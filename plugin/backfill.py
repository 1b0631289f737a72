"""Classify what was in the archive before the plugin's first start, and watch: `python -m plugin.backfill --help`.

The server does the work, behind everything that is new, and goes on after a restart; this only asks for it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import urllib3
from rich.console import Console

import upload
from plugin.query import STATES

ABOUT = "Classify what was in the archive before the plugin's first start, newest first, and watch."


def main(args: Sequence[str] | None = None) -> int:
    """Exit status 0 when nothing is left to do, 2 if it could not be asked for."""
    options = _arguments().parse_args(args)
    try:
        server = upload.connect(options.url, upload.credentials(options, os.environ), connections=1)
        answer = _ask(server, options)
        if answer.status >= 400:
            raise upload.Stop(upload.json_object(answer.data).get("error") or f"HTTP {answer.status}")
        if not options.stop:
            _watch(server)
    except upload.Stop as sentence:
        print(f"backfill: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("backfill: it goes on in the server; --stop ends it", file=sys.stderr)
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m plugin.backfill", description=ABOUT)
    add = parser.add_argument
    add("--from", dest="first", metavar="DATE", help="studies from this day on, as 2020-01-31")
    add("--to", dest="last", metavar="DATE", help="studies up to this day")
    add("--stop", action="store_true", help="do no more of it")
    upload.add_server(parser, os.environ)
    return parser


def _ask(server: upload.Server, options: argparse.Namespace) -> urllib3.BaseHTTPResponse:
    if options.stop:
        return server.ask("/chest-xray/backfill", "DELETE")
    wish = {"from": options.first, "to": options.last}
    return server.ask("/chest-xray/backfill", "POST", {name: day for name, day in wish.items() if day})


def _watch(server: upload.Server) -> None:
    with upload.progress(Console()) as bar:
        task = bar.add_task("Series looked at", total=None)
        while state := _status(server)["backfill"]:
            bar.update(task, total=state["series"] or None, completed=state["looked_at"])
            time.sleep(0.5)
    counts = _status(server)
    print("Finished. Of all images:", ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts))


def _status(server: upload.Server) -> dict[str, Any]:
    answer = server.ask("/chest-xray/status")
    status = upload.json_object(answer.data)
    if "backfill" not in status:
        raise upload.Stop(f"{server.url} does not say how far it is (HTTP {answer.status}); it goes on there")
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Is the plugin ready to classify? Asked at its own route, since Orthanc alone answers even while uploads hang.

With `--alive`, it is enough that it answers: what arrives before the model is there is classified later.
"""

from __future__ import annotations

import argparse
import base64
import json
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIGURATION = Path("/tmp/orthanc.json")  # noqa: S108 - where the base image puts it


def status_request(configuration: Mapping[str, Any]) -> urllib.request.Request:
    """`GET /chest-xray/status` as any of the users that this Orthanc knows."""
    scheme = "https" if configuration.get("SslEnabled") else "http"
    request = urllib.request.Request(f"{scheme}://localhost:{configuration.get('HttpPort', 8042)}/chest-xray/status")  # noqa: S310
    for user, password in configuration.get("RegisteredUsers", {}).items():
        account = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {account}")
    return request


def ask(configuration: Path) -> dict[str, Any]:
    """What the plugin says, or why it does not; `alive` if it does."""
    itself = ssl.create_default_context()
    itself.check_hostname = False  # the certificate names the server as others see it
    itself.verify_mode = ssl.CERT_NONE
    try:
        request = status_request(json.loads(configuration.read_text()))
        with urllib.request.urlopen(request, timeout=4, context=itself) as answer:  # noqa: S310
            return {"alive": True, **json.load(answer)}
    except urllib.error.HTTPError as refusal:
        reason = refusal.read().decode(errors="replace")
    except (OSError, ValueError) as problem:
        reason = str(problem)
    return {"alive": False, "ready": False, "reason": reason}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the status for `docker inspect`; 0 if it is as wanted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--alive", dest="wanted", action="store_const", const="alive", default="ready")
    parser.add_argument("configuration", nargs="?", type=Path, default=CONFIGURATION)
    options = parser.parse_args(arguments)
    status = ask(options.configuration)
    print(json.dumps(status))  # noqa: T201 - this is the check's log
    return 0 if status[options.wanted] else 1


if __name__ == "__main__":
    sys.exit(main())

"""A PostgreSQL of the test's own, and Orthancs that share it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from demo.serve import PLUGIN_FOLDER, PLUGINS
from tests.pacs import IMAGE, free_port

POSTGRESQL = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@contextmanager
def postgresql() -> Iterator[int]:
    """One server with an empty database `orthanc`, on the loopback alone; its port."""
    # Not pytest's folder, which other users may not enter: PostgreSQL refuses to run as root.
    with TemporaryDirectory(prefix="chest-xray-postgresql-") as name:
        folder, port = Path(name), free_port()
        shutil.chown(folder, _account())
        data, options = str(folder / "data"), f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        _run(folder, "initdb", "-D", data, "-A", "trust", "-U", "orthanc", "--no-sync")
        _run(folder, "pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            _run(folder, "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "orthanc", "orthanc")
            yield port
        finally:
            _run(folder, "pg_ctl", "-D", data, "-m", "immediate", "stop")


def _account() -> str:
    return "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


def _run(folder: Path, program: str, *arguments: str) -> None:
    account = ["runuser", "-u", _account(), "--"] if os.getuid() == 0 else []
    command = [*account, str(POSTGRESQL / program), *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def shared(name: str, port: int, storage: Path, **settings: Any) -> dict[str, Any]:
    """What orthanc.json says besides, for the Orthanc `name` of several on one database and one storage folder."""
    plugins = [str(PLUGIN_FOLDER / one) for one in (*PLUGINS, "libOrthancPostgreSQLIndex.so")]
    return {
        **({} if IMAGE else {"Plugins": plugins}),  # an image knows by its sections which plugins it needs
        "PostgreSQL": {
            "EnableIndex": True,
            "EnableStorage": False,
            "Host": "127.0.0.1",
            "Port": port,
            "Database": "orthanc",
            "Username": "orthanc",
            "Password": "",
            "Lock": False,
        },
        "StorageDirectory": str(storage),
        "CheckRevisions": True,
        "DatabaseServerIdentifier": name,
        "ChestXRay": settings,
    }

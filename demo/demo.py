"""`make demo`: start Orthanc, upload radiographs, wait for their reports, show them.

`DICOM=path` names what to upload in place of the samples. `RESULTS=folder` takes the JSON files.
`ONCE=1` ends by itself. The rest is `demo/serve.py`'s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from demo.serve import (
    ROOT,
    Account,
    CannotServe,
    announce,
    check_ports,
    claim,
    environ_for_orthanc,
    orthanc_command,
    port,
    storage_folder,
)
from plugin import weights
from plugin.settings import BadSetting, Settings

STAND_IN = """
****************************************************************************************************
*  The trained weights could not be had:
*  {why}
*  This demo goes on with STAND-IN weights: random numbers, not a trained model. Its scores mean
*  nothing, and every result says so.
****************************************************************************************************
"""


def main() -> int:
    """Exit status 0 if every eligible image has its report."""
    try:
        source = os.environ.get("DICOM") or str(ROOT / "samples")
        if not Path(source).exists():
            raise CannotServe(f"There is no {source} to upload")
        claim(storage_folder(os.environ))
        check_ports(os.environ)  # before what takes minutes
        environ = {**os.environ, "WEIGHTS": choose_weights()}
        account = Account.find(environ)
        command = orthanc_command(environ, account)
        account.keep()
    except (CannotServe, BadSetting, weights.WeightsUnavailable) as sentence:
        print(sentence, file=sys.stderr)
        return 2
    announce(environ, account)
    environ |= {"CHEST_XRAY_USER": account.user, "CHEST_XRAY_PASSWORD": account.password}
    url = f"http://localhost:{port(environ, 'HTTP_PORT')}"
    with running(command, environ_for_orthanc(environ)) as orthanc:
        try:
            wait_until_up(url, account, orthanc)
            status = upload(source, url, environ)
            if not environ.get("ONCE"):
                print(f"\nThe results: {url}/chest-xray/   (account {account.user})", flush=True)
                print("Serving until Ctrl-C.", flush=True)
                orthanc.wait()
        except CannotServe as sentence:
            print(sentence, file=sys.stderr)
            status = 2
        except KeyboardInterrupt:
            status = 0
    return status


def choose_weights() -> str:
    """The weights that were asked for, or else the real ones, or else, said loudly, stand-in weights.

    :raises WeightsUnavailable: if weights that were asked for cannot be had.
    """
    settings = Settings.read({})
    print("Preparing the model (the first time, this takes a minute) ...", flush=True)
    try:
        weights.prepare(settings.Weights, settings.WeightsSha256, settings.model_folder(ROOT))
    except weights.WeightsUnavailable as why:
        if os.environ.get("WEIGHTS"):
            raise
        print(STAND_IN.format(why=why), file=sys.stderr, flush=True)
        weights.prepare(weights.STAND_IN, "", settings.model_folder(ROOT))
        return weights.STAND_IN
    return settings.Weights


@contextmanager
def running(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Orthanc as a child, ended with us; its log goes to a file, so that the table can be read."""
    log = Path(command[-1]).with_name("orthanc.log")
    print(f"Orthanc's log: {log}", flush=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.STDOUT, process_group=0)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_up(url: str, account: Account, orthanc: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Until it can classify, if that is soon. :raises CannotServe: if Orthanc ends, or does not answer in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if orthanc.poll() is not None:
            raise CannotServe(f"Orthanc ended with status {orthanc.returncode}; its log says why")
        try:
            answer = requests.get(f"{url}/chest-xray/status", auth=(account.user, account.password), timeout=2)
            if answer.ok and (answer.json()["ready"] or time.monotonic() > end - seconds / 2):
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise CannotServe(f"Orthanc did not answer at {url} within {seconds:.0f} s; its log says why")


def upload(source: str, url: str, environ: dict[str, str]) -> int:
    """Upload with upload.py, as anybody would, and wait for the results."""
    results = environ.get("RESULTS") or str(ROOT / "results")
    command = [sys.executable, str(ROOT / "upload.py"), source, "--url", url, "--results", results]
    return subprocess.run(command, env=environ, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

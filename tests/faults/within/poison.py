"""Images that crash, hang or bloat whoever reads them; the patient's name says which."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pydicom

dcmread = pydicom.dcmread


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as a decoder does that never returns to Python
    time.sleep(3600)


def bloat() -> None:
    eaten = []
    while True:
        eaten.append(bytes(64 << 20))


FAULTS = {"CRASH": crash, "HANG": hang, "BLOAT": bloat}


def poisoned(*arguments: Any, **options: Any) -> Any:
    ds = dcmread(*arguments, **options)
    if fault := FAULTS.get(str(ds.get("PatientName", ""))):
        fault()
    return ds


pydicom.dcmread = poisoned

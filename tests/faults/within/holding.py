"""See `Hold`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from plugin.archive import Archive

FOLDER = Path(os.environ["FAULT_FOLDER"])
METHOD = os.environ["FAULT_AT"]
original = getattr(Archive, METHOD)


def held(*arguments: Any, **named: Any) -> Any:
    while (FOLDER / "held").exists():
        (FOLDER / "reached").touch()
        time.sleep(0.01)
    return original(*arguments, **named)


setattr(Archive, METHOD, held)

"""Python's state of the thread in which Orthanc's plugin for Python calls OnChange.

That is a C++ thread, for which CPython makes a state at each call and destroys it afterwards: memory that is mapped and
unmapped, for which every core that runs a thread of Orthanc is interrupted, for each instance of each CT. Whoever
enters once more (PyGILState_Ensure) and does not leave keeps the state.
"""

from __future__ import annotations

import ctypes
import threading

LOCKED = 0  # PyGILState_LOCKED: what PyGILState_Ensure gives to one who has the interpreter's lock already


class KeptThreadState:
    """Of one thread, between `enter` and `leave`."""

    def __init__(self) -> None:
        """No thread's yet."""
        self._thread: int | None = None

    def enter(self) -> None:
        """Keep the state of the calling thread."""
        ctypes.pythonapi.PyGILState_Ensure()
        self._thread = threading.get_ident()

    def leave(self) -> None:
        """As before `enter`, so that Python can be shut down; from the same thread, else nothing happens."""
        if self._thread == threading.get_ident():
            ctypes.pythonapi.PyGILState_Release(LOCKED)
            self._thread = None

"""The state that CPython makes and destroys at each call from a thread of C's, as Orthanc's plugin for Python does."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from pathlib import Path

from plugin.thread_state import KeptThreadState

THREAD = """
#include <pthread.h>
#include <stddef.h>

static void *calls(void *called) {
    for (int i = 0; i < 7; i++) ((void (*)(void)) called)();
    return NULL;
}

void call_from_a_thread(void (*called)(void)) {
    pthread_t thread;
    pthread_create(&thread, NULL, calls, (void *) called);
    pthread_join(thread, NULL);
}
"""


def test_it_is_kept_between_enter_and_leave(tmp_path: Path) -> None:
    (tmp_path / "thread.c").write_text(THREAD)
    command = ["gcc", "-shared", "-fPIC", "-pthread", "-o", "thread.so", "thread.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    kept, local, seen = KeptThreadState(), threading.local(), []

    def called() -> None:
        local.calls = getattr(local, "calls", 0) + 1  # lives as long as the thread's state
        seen.append(local.calls)
        if len(seen) == 3:
            kept.enter()
        elif len(seen) == 6:
            kept.leave()

    ctypes.CDLL(str(tmp_path / "thread.so")).call_from_a_thread(ctypes.CFUNCTYPE(None)(called))
    assert seen == [1, 1, 1, 2, 3, 4, 1]


def test_another_thread_cannot_let_go_of_it() -> None:
    kept = KeptThreadState()
    kept.enter()
    other = threading.Thread(target=kept.leave)
    other.start()
    other.join()
    assert kept._thread == threading.get_ident()
    kept.leave()
    assert kept._thread is None

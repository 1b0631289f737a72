"""Python imports this by itself before anything else; in a worker, and only there, it lets the fault in."""

import importlib
import os
import sys

if "multiprocessing.spawn" in " ".join(sys.orig_argv) and "FAULT" in os.environ:
    importlib.import_module(os.environ["FAULT"])

"""Python imports this by itself before anything else; in a worker, and only there, it lets the fault in."""

import importlib
import os
import sys

if "multiprocessing.spawn" in " ".join(sys.orig_argv) and "FAULT" in os.environ:
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - where the plugin is; Python itself adds that only later
    importlib.import_module(os.environ["FAULT"])

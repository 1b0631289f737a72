"""Tests that break things on purpose: each starts its own Orthanc, breaks it, and counts what is left.

`make test-faults` takes minutes and does less of the same; `make test-faults FULL=1` does all of it.
"""

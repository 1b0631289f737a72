"""What is fast, and how fast: measured, against the reference, in one run. See `bench/RESULTS.md`."""

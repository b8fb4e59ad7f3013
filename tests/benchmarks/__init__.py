"""Benchmarks: each a module that `tests/bench NAME` runs in the lab's kernel."""

"""Measured claims: `python -m benchmarks [NAME...]` runs `bench_NAME.py` and writes `artifacts/bench/NAME.json`."""

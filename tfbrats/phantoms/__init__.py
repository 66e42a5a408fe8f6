"""Simulated gliomas: for the demo, for tests and for benchmarks."""

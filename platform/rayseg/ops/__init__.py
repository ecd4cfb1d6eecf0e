"""Exact, memory-lean forms of the papers' costly formulas; the naive twin of each stands in `benchmarks/naive/`."""

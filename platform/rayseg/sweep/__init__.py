"""Sweeps as plain values: which points, which trials, what came out. Nothing here knows Ray."""

"""The cluster: the local stack, its processes and its jobs; the runs on Ray. Nothing outside this package imports ray.

Importing the package itself imports nothing, so `rayseg status` and the `ray` command's start hook stay light.
"""

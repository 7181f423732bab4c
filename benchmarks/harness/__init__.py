"""Shared parts of the benchmark scripts: environments, processes, load, statistics, reports."""

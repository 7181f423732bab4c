"""What the benchmark scripts share: environments, processes, load, statistics, reports."""

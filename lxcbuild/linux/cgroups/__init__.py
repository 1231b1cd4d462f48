"""Control groups of both versions: trees, files, limits, counters."""

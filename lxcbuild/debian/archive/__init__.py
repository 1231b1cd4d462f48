"""A suite's archive: packages, contents, sources."""

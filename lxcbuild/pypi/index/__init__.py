"""The client of a package index: pages, cache, changes."""

"""One file per phase of a build."""

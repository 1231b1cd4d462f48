"""Programs of a package build as forks of one process."""

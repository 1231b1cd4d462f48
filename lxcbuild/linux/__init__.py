"""The kernel edge: system calls, mounts, user namespaces, cgroups, network. A leaf of the import tree."""

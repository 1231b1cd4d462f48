"""From a request to a running container: launcher, mounts, namespaces, configuration."""

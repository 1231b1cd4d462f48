"""Backends and instances: throw-away machines. Knows LXC and QEMU; knows no Debian and no PyPI."""

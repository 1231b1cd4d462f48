"""lxcbuild: Python projects and Debian source packages into Debian packages, each build in a fresh LXC container."""

__version__ = "0.1.0"

"""Making and removing cgroup directories while neighbours make and remove theirs."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from lxcbuild.errors import HostError, KernelError
from lxcbuild.linux.cgroups import version1, version2
from lxcbuild.linux.cgroups.fs import Hierarchy, Node, Version

_GONE = (errno.ENOENT, errno.ENODEV)  # ENODEV: a descriptor of a cgroup that was removed meanwhile


def make(hierarchy: Hierarchy, name: str, controllers: frozenset[str]) -> Node:
    """The directory ``name`` of one hierarchy, its parents made and told to pass the controllers on.

    A neighbour that ends removes the common parent when it is empty, possibly under our feet: then we begin again.
    """
    while True:
        try:
            return _make_path(hierarchy, name, controllers)
        except (KernelError, OSError) as error:
            cause = error.__cause__ if isinstance(error, KernelError) else error
            if not (isinstance(cause, OSError) and cause.errno in _GONE) or not hierarchy.base.is_dir():
                raise


def _make_path(hierarchy: Hierarchy, name: str, controllers: frozenset[str]) -> Node:
    parts = name.split("/")
    place = hierarchy.base
    parent = Node(hierarchy, place)
    try:
        for depth, part in enumerate(parts, start=1):
            if hierarchy.version is Version.V2:
                version2.delegate(parent, hierarchy.controllers & controllers)
            place = place / part
            child = _make_one(hierarchy, place, exclusive=depth == len(parts))
            try:
                if hierarchy.version is Version.V1:
                    version1.initialise(child, parent)
            except BaseException:
                child.close()
                remove_if_empty(place)
                raise
            parent.close()
            parent = child
    except BaseException:
        parent.close()
        raise
    return parent


def _make_one(hierarchy: Hierarchy, place: Path, *, exclusive: bool) -> Node:
    try:
        place.mkdir(mode=0o755, exist_ok=not exclusive)
        return Node(hierarchy, place)
    except FileExistsError:
        if not exclusive:  # it was there, and was gone when mkdir() looked whether it is a directory
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(place)) from None
        raise HostError(
            f"cgroup {place} exists already", resolution="lxcbuild gc removes what dead builds left"
        ) from None
    except OSError as error:
        if error.errno in _GONE:
            raise
        raise KernelError(
            f"cannot make the cgroup {place}: {errno.errorcode.get(error.errno or 0, error)}",
            resolution="cgroups must be writable: run as root on the host, or in a container that was given its own cgroups",
        ) from error


def directories(place: Path) -> list[str]:
    """Names of the cgroups directly below a directory; none when it is gone."""
    try:
        with os.scandir(place) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def pids_of(node: Node) -> set[int]:
    """Every process in and below a cgroup; none when somebody else removed it."""
    try:
        return node.pids()
    except OSError as error:
        if error.errno in _GONE:
            return set()
        raise


def remove_tree(place: Path, deadline: float) -> None:
    """Remove a cgroup and all below it; EBUSY is retried until ``deadline`` (monotonic seconds), then :class:`HostError`."""
    pause = 0.0002
    while True:
        try:
            place.rmdir()
        except OSError as error:
            if error.errno in _GONE:
                return
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            for child in directories(place):
                remove_tree(place / child, deadline)
            if time.monotonic() > deadline:
                raise HostError(f"cgroup {place} cannot be removed: it is still in use", details=str(error)) from error
            time.sleep(pause)  # the kernel offers nothing to wait on for a v1 cgroup whose last task is being put away
            pause = min(pause * 2, 0.02)
        else:
            return


def remove_if_empty(place: Path) -> None:
    """Remove a cgroup unless something is in it."""
    try:
        place.rmdir()
    except OSError as error:
        if error.errno not in (*_GONE, errno.EBUSY, errno.ENOTEMPTY):
            raise

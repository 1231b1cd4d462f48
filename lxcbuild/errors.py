"""The exception tree: what can go wrong, what to do about it, and which exit code it becomes.

Every error has a one-line ``brief``, optional ``details`` (several lines), an optional ``resolution`` (the exact command or
file that mends it), a stable ``reference`` and an ``exit_code``. Errors pickle, because builds may run in other processes.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LxcbuildError(Exception):
    """Base of all errors that a user can be shown; anything else that escapes is a bug."""

    reference: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, brief: str, *, details: str | None = None, resolution: str | None = None) -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__.copy(), self.args)

    def __str__(self) -> str:
        return self.brief


def _rebuild(cls: type[LxcbuildError], state: dict[str, Any], args: tuple[Any, ...]) -> LxcbuildError:
    error = cls.__new__(cls)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class BuildsFailedError(LxcbuildError):
    """At least one of the asked-for builds ended neither built nor official."""

    reference, exit_code = "builds-failed", 1


# -- what the user asked for ------------------------------------------------------------------------------------


class InputError(LxcbuildError):
    """The request itself cannot be served; asking again in the same way cannot help."""

    reference, exit_code = "bad-input", 10


class BadNameError(InputError):
    """A name, version or path holds characters that no project, version or target has."""

    reference, exit_code = "bad-name", 10


class UnknownProjectError(InputError):
    """The package index knows no such project."""

    reference, exit_code = "unknown-project", 11


class UnknownVersionError(InputError):
    """The project exists, but no release satisfies the requirement."""

    reference, exit_code = "unknown-version", 12


class YankedReleaseError(InputError):
    """Only releases that were taken back satisfy the requirement."""

    reference, exit_code = "yanked", 13


class NoSdistError(InputError):
    """The release has wheels only."""

    reference, exit_code = "no-sdist", 14


class WrongHashError(LxcbuildError):
    """A fetched file is not the file that was promised."""

    reference, exit_code = "wrong-hash", 15


class UnknownTargetError(InputError):
    """No recipe describes the asked-for distribution and suite."""

    reference, exit_code = "unknown-target", 16


class UnknownBuildError(InputError):
    """The ledger holds no build of that id."""

    reference, exit_code = "unknown-build", 17


class BrokenSdistError(InputError):
    """A source archive cannot be read or lacks what every sdist has."""

    reference, exit_code = "broken-sdist", 18


class StateGoneError(InputError):
    """The state of a failed build was not kept, is not kept any more, or stands on an image that is gone."""

    reference, exit_code = "state-gone", 19


# -- configuration ----------------------------------------------------------------------------------------------


class ConfigError(LxcbuildError):
    """A YAML file of ours or of the administrator is wrong; the brief names file and key path."""

    reference, exit_code = "bad-config", 20


class UnknownPolicyError(ConfigError):
    """No policy has that name."""

    reference, exit_code = "unknown-policy", 21


class LimitRefusedError(LxcbuildError):
    """The policy asks for a limit that this host cannot enforce and does not mark it best-effort."""

    reference, exit_code = "limit-refused", 22


# -- the host ---------------------------------------------------------------------------------------------------


class HostError(LxcbuildError):
    """This machine lacks something that the work needs (failure class ``host-refused``)."""

    reference, exit_code = "host-refused", 30


class NotRootError(HostError):
    """The caller is not root."""

    reference, exit_code = "not-root", 31


class NoIdRangeError(HostError):
    """No free range of subordinate ids: none configured, or all in use."""

    reference, exit_code = "no-id-range", 32


class NetworkError(LxcbuildError):
    """A mirror or index cannot be reached."""

    reference, exit_code = "no-network", 33


class DiskFullError(HostError):
    """A file system of the host has no room."""

    reference, exit_code = "host-disk-full", 34


class KernelError(HostError):
    """A system call that the host should support was refused; names the call and errno."""

    reference, exit_code = "kernel", 35


class ToolMissingError(HostError):
    """A program or library that should be installed is not."""

    reference, exit_code = "tool-missing", 36


class CommandError(LxcbuildError):
    """A program of the host ended with an error; details carry the end of what it printed."""

    reference, exit_code = "command-failed", 37


class LedgerError(HostError):
    """The ledger cannot be opened, read or written."""

    reference, exit_code = "ledger", 38


class LeftoversError(HostError):
    """Something was left behind that no live build owns (``doctor --leftovers``), or could not be removed (``gc``)."""

    reference, exit_code = "leftovers", 39


# -- images and sandboxes ---------------------------------------------------------------------------------------


class ImageError(LxcbuildError):
    """A base image or layer cannot be made or is damaged."""

    reference, exit_code = "image-failed", 40


class ImageMissingError(ImageError):
    """The base image was never made here."""

    reference, exit_code = "image-missing", 41


class SandboxError(LxcbuildError):
    """The sandbox could not be started or stopped answering (failure class ``sandbox-failed``)."""

    reference, exit_code = "sandbox-failed", 42


class ExtractionError(LxcbuildError):
    """What the sandbox left in its output directory breaks a rule (a link, a device, too many files ...)."""

    reference, exit_code = "extraction-refused", 43


class GateError(LxcbuildError):
    """An artefact breaks a rule of the output gate."""

    reference, exit_code = "gate-rejected", 44


class DependencyError(LxcbuildError):
    """The target suite cannot satisfy a relation; details list what is missing."""

    reference, exit_code = "unsatisfiable", 45


class StoppedError(LxcbuildError):
    """A limit of the policy ended a command of ``lxcbuild run``; the brief names its failure class."""

    reference, exit_code = "stopped", 46


class NotReproducibleError(LxcbuildError):
    """The packages were built, and ``--check-reproducible`` got others from the same inputs."""

    reference, exit_code = "not-reproducible", 47


class WorkerLostError(LxcbuildError):
    """A worker of a farm died or went away before it answered; the head gives its job to another one."""

    reference, exit_code = "worker-lost", 48


class FarmError(LxcbuildError):
    """The farm cannot do the work: no scheduler, no worker that may do it, or one after another died. Finished builds are kept."""

    reference, exit_code = "farm-failed", 50


class RepositoryError(LxcbuildError):
    """A package repository cannot be made, read or changed, or what it holds is not what it signed."""

    reference, exit_code = "repository", 51


class CancelledError(LxcbuildError):
    """The user pressed Ctrl-C, or the caller was asked to stop."""

    reference, exit_code = "cancelled", 130

"""Releases that earlier runs could not build: nobody waits again for them to fail before an older one is tried."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lxcbuild import __version__
from lxcbuild.ledger.records import BuildRecord, Records
from lxcbuild.model import Status, Target
from lxcbuild.pypi.versions.version_caps import VersionCap, lowered

#: So long a failure is believed: what was lacking may have come to the index meanwhile.
DAYS = 7
_LOOK_BACK = 1000


def remembered(ledger: Records, target: Target, *, policy: str, image: str | None) -> dict[str, VersionCap]:
    """By project: what the newest failures of that target say of releases that nobody had asked for by name.

    Only those count that would go the same way now: of this version of lxcbuild, under this policy, on this image (None: any),
    and not built since. ``--rebuild`` looks at none of them.
    """
    since = (datetime.now(UTC) - timedelta(days=DAYS)).isoformat()

    def counts(record: BuildRecord) -> bool:
        same = record.lxcbuild_version == __version__ and record.policy == policy
        return (
            same
            and record.started_at >= since
            and (None in (image, record.image_digest) or record.image_digest == image)
        )

    found = ledger.recent(limit=_LOOK_BACK, target=str(target), status=Status.FAILED.value)
    failed = [
        r for r in found if counts(r) and r.version and r.request.get("needed_by") and not r.request.get("override")
    ]
    built = {
        (record.name, record.version)
        for name in {record.name for record in failed}
        for record in ledger.recent(target=str(target), status=Status.BUILT.value, name=name)
        if counts(record)
    }
    known: dict[str, VersionCap] = {}
    latest = {
        (record.name, record.version): record for record in reversed(failed)
    }  # in the order of their first failures
    for release, record in latest.items():
        if record.failure is None or release in built:
            continue
        why = f"{record.failure.failure_class} in {record.failure.phase}: {record.failure.brief[:120]}; build {record.build_id}"
        lower = lowered(known.get(record.name), record.version, failure_class=record.failure.failure_class, why=why)
        if lower is not None:
            known[record.name] = lower
    return known

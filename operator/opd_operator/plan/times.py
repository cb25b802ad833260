"""Times as a status holds them. Knows no clock."""

from datetime import UTC, datetime

_EARLIEST, _LATEST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def stamp(moment: datetime) -> str:
    """RFC 3339, UTC, whole seconds: `2026-11-25T20:10:00Z`."""
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def moment_of(text: str | None) -> datetime | None:
    """None when there is none, or none that can be believed: nobody who writes a status or a report is trusted."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if _EARLIEST <= moment <= _LATEST else None


def latest(*moments: datetime | None) -> datetime | None:
    """Of those that are known."""
    return max((moment for moment in moments if moment is not None), default=None)

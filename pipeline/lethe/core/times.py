"""When something was: read from whatever a source writes, in one way for every kind of source."""

import datetime as dt
import re
from functools import lru_cache
from numbers import Number
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# ISO 8601, extended or basic, of days of the calendar: no week dates, which databases lack.
_ISO = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T ]\s*(\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?)?"
    r"\s*(Z|[+-]\d\d(?::?\d\d)?)?",
    re.IGNORECASE,
)


def moment_of(value: Any, *, zone: str = "UTC", form: str | None = None) -> dt.datetime | None:
    """A date or timestamp as an aware moment in UTC; None for what is none.

    Guarantees: a day that the calendar does not have is none; nor is a bare number, unless `form`
        says what its digits are.

    Args:
        zone: of what has none; of the two moments of a repeated hour the first one.
        form: of text and of whole numbers, as `strptime` has it.
    """
    read = _read(value, form)
    if read is None:
        return None
    try:
        aware = read if read.tzinfo is not None else read.replace(tzinfo=_zone(zone))
        return aware.astimezone(dt.UTC)
    except OverflowError:
        return None


def day_of(value: Any, *, zone: str = "UTC", form: str | None = None) -> dt.datetime | None:
    """The day on which it was written to be, at midnight without a zone; None for what is none.

    A text says its day; a driver's aware timestamp is a moment, whose day is that of `zone`.
    """
    read = _read(value, form)
    if read is None:
        return None
    if not isinstance(value, str) and read.tzinfo is not None:
        read = read.astimezone(_zone(zone))
    return dt.datetime(read.year, read.month, read.day)


def day_text(value: Any, zone: str, form: str | None) -> str | None:
    """The day that was written, as text that sorts by time: what SQLite compares."""
    day = day_of(value, zone=zone, form=form or None)
    return None if day is None else day.date().isoformat()


def today(now: dt.datetime, zone: str) -> dt.date:
    """The calendar day of a moment in a zone."""
    return now.astimezone(_zone(zone)).date()


def in_zone(moment: dt.datetime, zone: str) -> dt.datetime:
    """A moment that is written without a zone is of this one."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=_zone(zone))


def check_zone(name: str) -> None:
    """Whether a time zone is known.

    Raises:
        ValueError: it is not.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; write one as Europe/Berlin") from None


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _read(value: Any, form: str | None) -> dt.datetime | None:
    """With the zone that is written, if one is."""
    if isinstance(value, str):
        return _read_text(value.strip(), form)
    if value is None or value != value:  # NaT
        return None
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime(warn=False)
    if isinstance(value, dt.datetime):
        return value
    if isinstance(value, dt.date):
        return dt.datetime(value.year, value.month, value.day)
    if form is not None and isinstance(value, Number) and not isinstance(value, bool):
        whole = float(value).is_integer()  # type: ignore[arg-type]
        return _read_text(str(int(value)), form) if whole else None  # type: ignore[call-overload]
    return None


def _read_text(text: str, form: str | None) -> dt.datetime | None:
    try:
        if form is not None:
            return dt.datetime.strptime(text, form)
        match = _ISO.fullmatch(text) if text.isascii() else None
        if match is None:
            return None
        *whole, fraction, zone = match.groups()
        if zone is not None and whole[3] is None:
            return None  # a day alone has no zone
        year, month, day, hour, minute, second = (int(each or 0) for each in whole)
        micro = int((fraction or "0").ljust(6, "0")[:6])
        read = dt.datetime(year, month, day, hour, minute, second, micro)
        return read if zone is None else read.replace(tzinfo=_offset(zone))
    except ValueError:
        return None


def _offset(zone: str) -> dt.timezone:
    if zone in "Zz":
        return dt.UTC
    hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
    away = dt.timedelta(hours=hours, minutes=minutes)
    return dt.timezone(-away if zone[0] == "-" else away)

"""Dates as documents write them in their properties → ISO, day precision."""

from __future__ import annotations

import datetime
import re

FIRST_YEAR = 1970  # earlier "creation dates" are clocks that were never set
_ISO = re.compile(r"(\d{4})[-/:.]?(\d{2})[-/:.]?(\d{2})")


def iso_date(value: object) -> str | None:
    """ "2025-03-04" out of a datetime, an ISO text or a PDF date ("D:20250304…"); None where there is no sensible date."""
    if isinstance(value, datetime.datetime | datetime.date):
        found = datetime.date(value.year, value.month, value.day)
    else:
        match = _ISO.search(str(value or ""))
        if match is None:
            return None
        try:
            found = datetime.date(*(int(each) for each in match.groups()))
        except ValueError:
            return None
    if not FIRST_YEAR <= found.year <= datetime.datetime.now(datetime.UTC).year + 1:
        return None
    return found.isoformat()

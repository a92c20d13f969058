"""By when a request must be answered.

Source: Art. 12(3) GDPR: one month of receipt, by two further months where necessary, of which
the person is informed within the first. A month ends on the day of its date, or on the last day
of a month that has no such date (Regulation (EEC, Euratom) No 1182/71, Art. 3(2)(c)).
"""

import datetime as dt

from dateutil.relativedelta import relativedelta

from lethe.core.errors import ParamsInvalid

MONTHS = 1
FURTHER_MONTHS = 2


def due(received_at: dt.datetime) -> dt.datetime:
    """When a request must be answered at the latest."""
    return add_months(received_at, MONTHS)


def extended(received_at: dt.datetime, *, now: dt.datetime) -> dt.datetime:
    """The same with the two further months.

    Raises:
        ParamsInvalid: the first month is over, and so is the time to inform the person.
    """
    if now > due(received_at):
        raise ParamsInvalid(
            f"The first month ended on {due(received_at):%Y-%m-%d}; the person had to be "
            "informed of an extension before. Answer the request now."
        )
    return add_months(received_at, MONTHS + FURTHER_MONTHS)


def add_months(moment: dt.datetime, months: int) -> dt.datetime:
    """The same time of the day, months later; the last day of a month that is too short."""
    return moment + relativedelta(months=months)

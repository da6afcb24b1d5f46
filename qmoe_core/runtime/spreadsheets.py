"""Tables for spreadsheets."""

from __future__ import annotations

_FORMULA = frozenset("=+-@＝＋－＠")
_BREAKS = frozenset("\t\r\n")


def defused(value: object) -> object:
    """Text that starts like a formula gets an apostrophe, by which spreadsheets know text (OWASP).

    >>> defused("=1+1"), defused(-0.5), defused("rain")
    ("'=1+1", -0.5, 'rain')
    """
    if isinstance(value, str) and (value[:1] in _BREAKS or value.strip()[:1] in _FORMULA):
        return f"'{value}"
    return value

"""Numbers as text, with their units: one formatter for pages, reports and the command line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

NBSP = "\N{NO-BREAK SPACE}"
"""Between a figure and its unit."""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WORDS = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]


def number(n: int) -> str:
    """A small number as a word.

    >>> number(8), number(40)
    ('eight', '40')
    """
    return _WORDS[n] if 0 <= n < len(_WORDS) else f"{n:,}"


def counted(n: int, thing: str) -> str:
    """How many there are of a thing.

    >>> counted(1, "window"), counted(2000, "window")
    ('1 window', '2,000 windows')
    """
    return f"{n:,} {thing}{'s' * (n != 1)}"


def listed(names: Iterable[str]) -> str:
    """A list as in a sentence.

    >>> listed(["q1", "q2", "popcount"])
    'q1, q2 and popcount'
    """
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def percent(share: float, digits: int | None = None) -> str:
    """A share in per cent; whole and never 0 % or 100 % of what is not quite none or all, without digits.

    >>> percent(0.984, 1), percent(0.9984)
    ('98.4\\xa0%', 'over 99\\xa0%')
    """
    if digits is None and 0.0 < share < 0.005:
        return f"under 1{NBSP}%"
    if digits is None and 0.995 <= share < 1.0:
        return f"over 99{NBSP}%"
    return f"{100.0 * share:.{digits or 0}f}{NBSP}%".replace("-", "−")


def percents(digits: int) -> Callable[[float], str]:
    """`percent` with so many digits."""
    return lambda share: percent(share, digits)


def decimals(digits: int) -> Callable[[float], str]:
    """Numbers with so many decimals."""
    return lambda value: f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign.

    >>> signed(-0.0123), signed(0.5, 1)
    ('−0.012', '+0.5')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def scientific(value: float, digits: int = 0) -> str:
    """A number of any size as a power of ten.

    >>> scientific(8.3e-12), scientific(0.0)
    ('8·10⁻¹²', '0')
    """
    if value == 0.0:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def three(value: float) -> str:
    """Three significant digits, whole from a thousand on.

    >>> three(12.34), three(45678.9)
    ('12.3', '45,679')
    """
    return f"{value:,.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def significant(value: float) -> str:
    """Three significant digits, zeros included, and at most six decimals."""
    if value == 0:
        return "0"
    return f"{value:.{min(max(0, 2 - math.floor(math.log10(abs(value)))), 6)}f}"


def nats(value: float) -> str:
    """An entropy with its unit."""
    return f"{significant(value)}{NBSP}nats"


def factor(value: float) -> str:
    """A multiplier: three decimals near one, where the paper's α leaves it; a power of ten when huge."""
    if value < 1e5:
        return f"×{NBSP}{value:.3f}" if value < 10 else f"×{NBSP}{value:,.0f}"
    return f"×{NBSP}{scientific(value, 1)}"


def p_value(value: float) -> str:
    """The p of a test."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def amount(cost: str, value: float) -> str:
    """A cost of `evaluation.pareto` with its unit.

    >>> amount("bytes", 119168), amount("p99_us", 12.34), amount("energy_mj", 0.0123)
    ('119 kB', '12.3 µs (p99)', '0.0123 mJ')
    """
    if cost == "bytes":
        return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"
    if cost == "energy_mj":
        return f"{value:.3g} mJ"
    return f"{value:,.0f} µs ({cost[:3]})" if value >= 100 else f"{value:.3g} µs ({cost[:3]})"


def grams(value: float) -> str:
    """A mass of CO2 with a fitting unit.

    >>> grams(2.5e-6), grams(55_000)
    ('2.5\\xa0µg', '55\\xa0kg')
    """
    for limit, unit in ((1e-6, "ng"), (1e-3, "µg"), (1.0, "mg"), (1e3, "g"), (1e6, "kg")):
        if value < limit:
            return f"{1e3 * value / limit:.3g}{NBSP}{unit}"
    return f"{value / 1e6:,.3g}{NBSP}t"


# Times.


def seconds(value: float) -> str:
    """A time that a person waited."""
    return f"{1000 * value:.0f}{NBSP}ms" if value < 1 else f"{value:.1f}{NBSP}s"


def duration(value: float) -> str:
    """A time to wait, s.

    >>> duration(4.2), duration(95)
    ('4\\xa0s', '1\\xa0min 35\\xa0s')
    """
    whole = round(value)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60}{NBSP}min"


def days(value: float) -> str:
    """A number of days, in the unit that fits."""
    if value < 1 / 24:
        return seconds(86400 * value)
    if value < 2:
        return f"{24 * value:.1f} hours"
    return f"{value:,.0f} days" if value < 730 else f"{value / 365:,.1f} years"


def ago(at: float) -> str:
    """When something was measured (Unix time).

    >>> ago(time.time() - 7200)
    'measured 2 hours ago'
    """
    spent = max(0.0, time.time() - at)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if spent >= size:
            return f"measured {counted(int(spent // size), unit)} ago"
    return "measured just now"


def clock(start_s: float, end_s: float) -> str:
    """A stretch of a recording: seconds, or minutes where it is long."""
    if end_s < 120:
        return f"{round(start_s, 2):g}–{round(end_s, 2):g}{NBSP}s"
    start, end = (f"{int(value // 60)}:{value % 60:04.1f}" for value in (start_s, end_s))
    return f"{start}–{end}{NBSP}min"

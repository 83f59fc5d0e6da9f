"""Numbers as people read them: three digits, a unit, and a dash where there is none."""

from __future__ import annotations

from math import floor, isfinite, log10

NONE = "–"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
THIN = "\N{NARROW NO-BREAK SPACE}"


def digits(value: float) -> str:
    """Three significant digits; thousands grouped."""
    if value == 0 or not isfinite(value):
        return "0" if value == 0 else str(value)
    places = max(0, 2 - floor(log10(abs(value))))
    whole = round(value, 2 - floor(log10(abs(value))))
    return f"{whole:,.{places}f}" if places else f"{whole:,.0f}"


def seconds(value: float | None) -> str:
    if value is None:
        return NONE
    scale, unit = next((pair for pair in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")) if value >= pair[0]), (1e-6, "µs"))
    return f"{digits(value / scale)}{THIN}{unit}"


def size(value: float | None) -> str:
    if value is None:
        return NONE
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if value >= 1024**power:
            return f"{digits(value / 1024**power)}{THIN}{unit}"
    return f"{value:.0f}{THIN}B"


def parameters(count: int) -> str:
    """1,892 parameters, or 130.0 M."""
    return f"{count / 1e6:,.1f} M parameters" if count >= 10**5 else f"{count:,} parameters"


def rate(value: float | None, unit: str = f"{THIN}tok/s") -> str:
    """Tokens per second."""
    return NONE if value is None else f"{digits(value)}{unit}"


def error(value: float | None) -> str:
    """A relative error: 3.3 × 10⁻⁷."""
    if value is None:
        return "not finite"
    if value == 0:
        return "0"
    exponent = floor(log10(value))
    mantissa = f"{value / 10.0**exponent:.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    return f"{mantissa}{THIN}×{THIN}10{str(exponent).translate(SUPERSCRIPT)}"


def ratio(value: float | None) -> str:
    """Two significant digits: 0.8×, 14×."""
    if value is None:
        return NONE
    return f"{format(value, '.2g') if value < 10 else about(value)}×"


def percent(value: float | None) -> str:
    """A share, never rounded up to all."""
    if value is None:
        return NONE
    return "100%" if value == 1 else f"{floor(value * 1e4) / 100:.2f}%"


def tokens(value: float) -> str:
    return f"{round(value):,}"


def about(value: float) -> str:
    """Two significant digits, for what is interpolated."""
    return f"{round(value, 1 - floor(log10(value))) if value >= 100 else round(value):,.0f}"

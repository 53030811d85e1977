"""Validate plain values that users give: whole numbers such as seeds and sizes, true or false."""

import operator
from typing import Any

from cde_retriever.errors import ConfigError

SEED_BITS = 63


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a number as a plain integer.

    Args:
        name: What it is called, for the message.
        value: What was given; NumPy's integers are whole numbers too.
        least: The smallest allowed.
        most: The largest allowed; None for any.

    Raises:
        TypeError: if it is no whole number; True and False are none.
        ConfigError: if it is too small or too large.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, received {value!r:.80}") from None
    if number < least:
        raise ConfigError(f"{name} must be at least {least}, received {number}")
    if most is not None and number > most:
        raise ConfigError(f"{name} must be at most {most}, received a number of {number.bit_length()} bits")
    return number


def true_or_false(name: str, value: Any) -> bool:
    """Return a switch that a user gives.

    Raises:
        TypeError: for anything but True and False, since a text such as ``"no"`` would count as true.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, received {value!r:.80}")
    return value


def valid_seed(value: Any) -> int:
    """Return a seed as a plain integer; raises what `whole_number` says, of more than 63 bits and a sign."""
    return whole_number("seed", value, -(2**SEED_BITS), 2**SEED_BITS - 1)

"""Kubernetes quantities as numbers. Checks nothing: the contract has."""

import re

_FACTORS = {
    "": 1.0,
    "m": 1e-3,
    **{unit: 1000.0 ** (power + 1) for power, unit in enumerate(("k", "M", "G", "T", "P", "E"))},
    **{f"{unit}i": 1024.0 ** (power + 1) for power, unit in enumerate(("K", "M", "G", "T", "P", "E"))},
}


def bytes_of(quantity: str | int | None) -> int | None:
    """`16Gi` -> 17179869184; None when there is none, or when it is none."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", str(quantity))
    if quantity is None or match is None or match[2] not in _FACTORS:
        return None
    return int(float(match[1]) * _FACTORS[match[2]])

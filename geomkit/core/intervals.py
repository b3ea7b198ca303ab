"""Confidence intervals that more than one room needs."""

import math

__all__ = ["Z95", "wilson"]

Z95 = 1.959963984540054
"""Standard errors on either side of a normal mean that hold 95 %."""


def wilson(share: float, draws: float, times: float = Z95) -> tuple[float, float]:
    """Return Wilson's interval of a share of independent draws, within [0, 1].

    Parameters
    ----------
    share : float
        Of the draws, in [0, 1].
    draws : float
        How many there were; of a share with a variance of its own, ``share (1 - share) / variance``.
    times : float
        Standard errors that the interval reaches to either side.

    References
    ----------
    E. B. Wilson: Probable inference, the law of succession, and statistical inference. JASA 22, 1927.
    """
    part = times**2 / draws
    middle = (share + part / 2) / (1 + part)
    reach = math.sqrt(share * (1 - share) * part + part * part / 4) / (1 + part)
    # Rounding must not keep an end from the share itself.
    low, high = (0.0 if share == 0 else middle - reach), (1.0 if share == 1 else middle + reach)
    return max(low, 0.0), min(high, 1.0)

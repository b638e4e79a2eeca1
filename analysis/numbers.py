"""Numbers as people read them."""


def quantity(value: float) -> str:
    """A number to three digits with its metric letter: 950, 12.5k, 3.2M, 2.44B."""
    rounded = float(f"{value:.3g}")  # before the letter is chosen, so that 999,999 is 1M and not 1e+03k
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= factor:
            return f"{rounded / factor:.3g}{letter}"
    return f"{rounded:.3g}"

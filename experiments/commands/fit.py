"""placeholder"""
def fit() -> None:
    """Fit."""

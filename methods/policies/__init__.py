"""The three axes of the matrix: label, weight and margin policies. Importing this package registers all of them."""

from methods.policies import bat_stop, cfa, dafa, faal, frl, kappa, labels, neutral, wat

__all__ = ["bat_stop", "cfa", "dafa", "faal", "frl", "kappa", "labels", "neutral", "wat"]

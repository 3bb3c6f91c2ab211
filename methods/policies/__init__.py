"""The three axes of the matrix: label, weight and margin policies."""

"""Scores of generators: one file a metric, arrays in and numbers out.

Every function of this package takes feature matrices (``[n, dim]``, one image a row) and imports nothing
heavier than numpy; only the ``features`` sub-package, which makes those matrices from images, needs torch.
"""

"""A generator that places atoms on Wyckoff positions, learnt across chemistries."""

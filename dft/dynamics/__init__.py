"""How a relaxed crystal moves and yields: phonons, and the elastic tensor."""

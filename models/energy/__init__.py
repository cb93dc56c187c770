"""Energies learnt: descriptors of atoms, the constraint, the potential, goals of a search."""

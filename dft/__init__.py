"""Structures and energies: prototypes, substitution, relaxation, convex hull, matching."""

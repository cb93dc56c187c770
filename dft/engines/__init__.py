"""What computes energies, forces and stress."""

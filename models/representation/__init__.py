"""Crystals as numbers and back: voxels, peaks, codes, and the space that networks work in."""

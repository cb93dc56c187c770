"""Representation and networks: voxels, crystal graphs, autoencoders, constraint and GANs."""

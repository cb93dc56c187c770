"""The space in which the default networks work: crystal graphs, whitened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccdcgan.models.representation.voxels import FloatArray


@dataclass(frozen=True)
class Whitening:
    """Linear map between crystal graphs and a space where every direction has unit variance.

    The numbers of cell and composition are standardised one by one; of the codes the principal
    components are kept. A GAN needs no capacity there for scales and correlations.
    """

    mean: NDArray[np.float32]
    head_scale: NDArray[np.float32]
    components: NDArray[np.float32]
    deviations: NDArray[np.float32]

    @classmethod
    def fit(cls, graphs: FloatArray, head: int, latent: int) -> Whitening:
        """From crystal graphs (n, length), `latent` numbers in all, or fewer if n is small."""
        graphs = np.asarray(graphs, np.float64)
        mean = graphs.mean(0)
        scale = np.maximum(graphs[:, :head].std(0), 1e-3)
        codes = graphs[:, head:] - mean[head:]
        kept = max(1, min(latent - head, len(graphs) - 1, codes.shape[1]))
        _, singular, vectors = np.linalg.svd(codes, full_matrices=False)
        deviations = singular / np.sqrt(max(1, len(graphs) - 1))
        kept = min(kept, int((deviations > 1e-4 * deviations[0]).sum()))
        # The sign of a singular vector is the library's choice; fix it for repeatability.
        signs = np.sign(vectors[np.arange(kept), np.abs(vectors[:kept]).argmax(1)])
        return cls(
            mean.astype(np.float32),
            scale.astype(np.float32),
            (vectors[:kept] * signs[:, None]).astype(np.float32),
            deviations[:kept].astype(np.float32),
        )

    @property
    def size(self) -> int:
        return len(self.head_scale) + len(self.components)

    def forward(self, graphs: FloatArray) -> NDArray[np.float32]:
        """Crystal graphs (n, length) to whitened vectors (n, size)."""
        head = len(self.head_scale)
        centred = np.asarray(graphs, np.float32) - self.mean
        codes = centred[:, head:] @ self.components.T / self.deviations
        return np.concatenate([centred[:, :head] / self.head_scale, codes], 1)

    def inverse(self, vectors: FloatArray) -> NDArray[np.float32]:
        """Whitened vectors (n, size) to crystal graphs (n, length); codes stay within (-1, 1)."""
        head = len(self.head_scale)
        vectors = np.asarray(vectors, np.float32)
        codes = (vectors[:, head:] * self.deviations) @ self.components + self.mean[head:]
        cell = vectors[:, :head] * self.head_scale + self.mean[:head]
        return np.concatenate([cell, np.clip(codes, -1.0, 1.0)], 1)

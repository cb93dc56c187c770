"""The networks of the GANs: generators that start from known crystals, and critics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from ccdcgan.models.backend import has_accelerator, initialise
from ccdcgan.models.paper.networks import build_paper_discriminator, build_paper_generator
from ccdcgan.models.presets import GanSettings
from ccdcgan.models.representation.protocol import Composition, Conditions
from ccdcgan.models.representation.voxels import FloatArray

#: Numbers of the noise that choose the crystals and their shares; the others blur.
CHOICES = 5


@keras.saving.register_keras_serializable("ccdcgan")
class CrystalPrior(layers.Layer):
    """Noise (batch, 5 + size) and compositions (batch, m) to blends of known crystal graphs.

    A few hundred crystals are isolated points in the space of crystal graphs: a network that
    starts from plain noise needs many thousand steps before anything it draws can be decoded.
    Here the noise chooses two known crystals of about the composition asked for, and how to blend
    and blur them; the network that follows learns to turn that into a crystal. The composition of
    the result (batch, size) is the one asked for.

    Known crystals of the same composition and group form a class. A class is chosen with weight
    Σw · exp(-|c - c_class|² / 2τ²), c in atoms, and in it a crystal by its weight w: a matrix of
    batch × classes, not batch × crystals. The second crystal is of the first one's group.

    Parameters
    ----------
    rows, classes, size
        Number of crystal graphs, of classes, and length of a graph.
    first, elements
        First of the composition's columns, and how many elements it has.
    blur
        Standard deviation of what is added, in whitened units.
    jitter
        `GanSettings.composition_jitter`, which drawing compositions needs.
    tau
        τ in atoms.
    """

    def __init__(
        self,
        rows: int,
        classes: int,
        size: int,
        first: int,
        elements: int,
        blur: float,
        jitter: float,
        tau: float = 0.4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.own: dict[str, Any] = {
            "rows": rows, "classes": classes, "size": size, "first": first, "elements": elements,
            "blur": blur, "jitter": jitter, "tau": tau,
        }  # fmt: skip
        shapes = {
            "graphs": (rows, size), "places": (rows,), "counts": (classes, elements),
            "groups": (classes,), "log_weights": (classes,), "scale": (elements,),
            "offset": (elements,),
        }  # fmt: skip
        self.tables = {
            name: self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)
            for name, shape in shapes.items()
        }
        last = first + elements
        self.free = np.r_[np.ones(first), np.zeros(elements), np.ones(size - last)]

    def call(self, inputs: Any) -> Any:
        z, composition = inputs
        tables, first, last = (
            self.tables,
            self.own["first"],
            self.own["first"] + self.own["elements"],
        )
        uniform = 0.5 * (1.0 + ops.erf(z[:, :CHOICES] / np.sqrt(2.0)))
        # -|c - c_class|² / 2 but for |c|², which is the same for all classes: a matrix product.
        counts = tables["counts"] * tables["scale"]
        near = ops.matmul(composition * tables["scale"], ops.transpose(counts))
        near = (near - 0.5 * ops.sum(counts**2, 1)) / self.own["tau"] ** 2 + tables["log_weights"]
        odds = ops.exp(near - ops.max(near, axis=1, keepdims=True))
        one, group = self._choose(odds, uniform[:, 0], uniform[:, 1])
        odds *= ops.cast(ops.equal(group[:, None], tables["groups"]), odds.dtype)
        other, _ = self._choose(odds, uniform[:, 2], uniform[:, 3])
        share = 0.5 * uniform[:, 4:5] ** 2
        blend = (1.0 - share) * one + share * other + self.own["blur"] * z[:, CHOICES:]
        return ops.concatenate([blend[:, :first], composition, blend[:, last:]], axis=1)

    def _choose(self, odds: Any, u: Any, v: Any) -> tuple[Any, Any]:
        """Crystal graphs (batch, size) and their groups (batch,)."""
        cumulative = ops.cumsum(odds, axis=1)
        # The bound keeps rounding from leading past the last class of any odds.
        drawn = ops.minimum(u, 1.0 - 1e-6)[:, None] * cumulative[:, -1:]
        kind = ops.sum(ops.cast(cumulative <= drawn, "int32"), axis=1)
        # Crystals of class k lie at places in (k, k + 1]. The bound keeps the rounding of
        # thousands of classes from leading to the class before.
        place = ops.cast(kind, v.dtype) + ops.maximum(v, 1e-3)
        row = ops.searchsorted(self.tables["places"], place)
        return ops.take(self.tables["graphs"], row, 0), ops.take(self.tables["groups"], kind)

    def set_crystals(
        self,
        graphs: FloatArray,
        weights: FloatArray,
        composition: Composition,
        kinds: NDArray[np.int_],
        groups: NDArray[np.int_],
    ) -> None:
        """Known crystals: graphs (rows, size), their weights, classes and groups (rows,)."""
        order = np.argsort(kinds, kind="stable")
        kinds, weights = kinds[order], np.asarray(weights, np.float64)[order]
        first = np.searchsorted(kinds, np.arange(self.own["classes"]))
        cumulative, total = np.cumsum(weights), np.add.reduceat(weights, first)
        before = cumulative[first] - weights[first]
        last = np.r_[first[1:], len(kinds)] - 1
        places = kinds + np.clip((cumulative - before[kinds]) / total[kinds], 0.0, 1.0)
        places[last] = np.arange(self.own["classes"]) + 1.0
        graphs = np.asarray(graphs, np.float32)[order]
        values = {
            "graphs": graphs, "places": places, "counts": graphs[first, composition.columns],
            "groups": groups[order][first], "log_weights": np.log(total / total.sum()),
            "scale": composition.scale, "offset": composition.offset,
        }  # fmt: skip
        for name, value in values.items():
            self.tables[name].assign(np.asarray(value, np.float32))

    def whitened(self, atoms: FloatArray) -> NDArray[np.float32]:
        """Numbers of atoms (k, m), or (m,) for one composition, as whitened compositions (k, m).

        Raises
        ------
        ValueError
            Not one number for each element.
        """
        atoms = np.atleast_2d(np.asarray(atoms, np.float32))
        if atoms.shape[1] != self.own["elements"]:
            raise ValueError(
                f"a composition has {self.own['elements']} numbers, not {atoms.shape[1]}"
            )
        scale, offset = (ops.convert_to_numpy(self.tables[n]) for n in ("scale", "offset"))
        return (atoms - offset) / scale

    def draw(self, count: int, seed: int) -> NDArray[np.float32]:
        """Compositions (count, m) as in training; row i depends on the seed and i alone."""
        counts, log_weights = (
            ops.convert_to_numpy(self.tables[n]) for n in ("counts", "log_weights")
        )
        u = np.random.default_rng([seed, 0, 2]).random((count, 1 + 2 * self.own["elements"]))
        return draw_compositions(counts, np.exp(log_weights), u, self.own["jitter"])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        return (input_shape[0][0], self.own["size"])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.own}


def chosen(weights: FloatArray, u: FloatArray) -> NDArray[np.intp]:
    """Indices drawn with weights (n,), by uniform numbers of any shape."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    index = np.searchsorted(cumulative, u * cumulative[-1], side="right")
    return np.minimum(index, len(cumulative) - 1)


def draw_compositions(
    compositions: FloatArray, weights: FloatArray, u: FloatArray, jitter: float
) -> NDArray[np.float32]:
    """Compositions (n, m) from known ones (k, m), by uniform numbers (n, 1 + 2m).

    Each element's number of atoms is another known one's with the probability `jitter`.
    """
    m = np.shape(compositions)[1]
    own = compositions[chosen(weights, u[:, 0])]
    other = compositions[chosen(weights, u[:, 1 : 1 + m]), np.arange(m)]
    return np.where(u[:, 1 + m :] < jitter, other, own).astype(np.float32)


def build_dense_generator(
    data: FloatArray,
    weights: FloatArray,
    settings: GanSettings,
    conditions: Conditions,
) -> keras.Model:
    """Noise and compositions to whitened crystal graphs; untrained, it is the `CrystalPrior`.

    Parameters
    ----------
    data : array (rows, size)
        Known crystal graphs, whitened.
    weights : array (rows,)
        Positive weights with which they are drawn.
    settings
        Width, blur, jitter.
    conditions
        Which numbers of a row count the atoms, and which crystals blend.
    """
    rows, size = np.shape(data)
    composition = conditions.composition or Composition(0, np.zeros(0), np.zeros(0))
    groups = np.asarray(np.zeros(rows) if conditions.groups is None else conditions.groups, int)
    m = len(composition.scale)
    # Compositions that differ by rounding are the same.
    atoms = np.asarray(data)[:, composition.columns] * composition.scale
    labels = np.column_stack([groups, np.round(atoms, 2)])
    _, kinds = np.unique(labels, axis=0, return_inverse=True)
    z, wanted = keras.Input((CHOICES + size,), name="noise"), keras.Input((m,), name="composition")
    prior = CrystalPrior(
        rows, int(kinds.max()) + 1, size, composition.first, m, settings.blur,
        settings.composition_jitter, name="prior", dtype="float32",
    )  # fmt: skip
    start = prior([z, wanted])
    x = start
    for _ in range(2):
        x = layers.LeakyReLU(0.2)(layers.Dense(settings.width)(x))
    change = layers.Dense(size, kernel_initializer="zeros", dtype="float32")(x)
    change = layers.Rescaling(prior.free.tolist(), dtype="float32")(change)
    model = keras.Model([z, wanted], layers.Add(dtype="float32")([start, change]), name="generator")
    prior.set_crystals(data, weights, composition, kinds.ravel(), groups)
    return model


def build_dense_critic(size: int, settings: GanSettings) -> keras.Model:
    """Whitened crystal graphs (batch, size) to one unbounded score (batch, 1)."""
    g = keras.Input((size,))
    x = g
    for _ in range(2):
        x = layers.LeakyReLU(0.2)(layers.Dense(settings.width)(x))
    return keras.Model(g, layers.Dense(1)(x), name="critic")


class SpectralNormalization(layers.SpectralNormalization):
    """Keras's layer, whose kernel is normalised by `project` alone.

    Keras's own does it in every call, also those of the generator's steps, and JAX would send the
    gradient through it, TensorFlow not.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.layer(inputs)

    def project(self) -> None:
        """Divide the kernel by its largest singular value, to one power iteration."""
        vector, kernel = self.normalized_weights()
        self.vector_u.assign(vector)
        self.kernel.assign(kernel)


def _scoring(critic: keras.Model, settings: GanSettings) -> keras.Model:
    """The critic with an unbounded score in float32, and normalised kernels if the loss is hinge.

    Cross-entropy takes the score as log-odds: a sigmoid in 16 bits would round to 0 or 1.
    """
    last = critic.layers[-1].name

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name == last:
            config |= {"activation": "linear", "dtype": "float32"}
        new = type(layer).from_config(config)
        if settings.loss == "hinge" and hasattr(layer, "kernel"):
            return SpectralNormalization(new, name=layer.name, dtype=config["dtype"])
        return new

    return keras.models.clone_model(critic, clone_function=clone)


def build_networks(
    data: FloatArray,
    weights: FloatArray,
    settings: GanSettings,
    seed: int,
    conditions: Conditions,
) -> tuple[keras.Model, keras.Model]:
    """Generator and critic for rows of `data`: dense, or the paper's if the rows are images.

    Their first weights depend on the seed alone, not on Keras's backend.
    """
    images = np.ndim(data) == 4
    with _precision(settings, images):
        if images:
            side = int(np.shape(data)[1])
            generator, critic = build_paper_generator(200, side), build_paper_discriminator(side)
        else:
            generator = build_dense_generator(data, weights, settings, conditions)
            critic = build_dense_critic(int(np.shape(data)[1]), settings)
        critic = _scoring(critic, settings)
    initialise([*generator.trainable_variables, *critic.weights], seed)
    return generator, critic


@contextmanager
def _precision(settings: GanSettings, images: bool) -> Iterator[None]:
    """Build layers with the dtype policy of the settings."""
    name = settings.precision
    if name == "auto":
        name = "mixed_bfloat16" if images and has_accelerator() else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

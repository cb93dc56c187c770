"""The only place that knows Keras's backends: gradients, and many steps in one compiled call.

Training runs with TensorFlow or JAX (``KERAS_BACKEND``); everything else is Keras alone.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

TENSORFLOW = keras.backend.backend() == "tensorflow"


def _engine() -> Any:
    """The library behind Keras.

    Raises
    ------
    RuntimeError
        It is neither TensorFlow nor JAX.
    """
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax"):
        raise RuntimeError(f"KERAS_BACKEND={name} cannot train GANs: use tensorflow or jax")
    return importlib.import_module(name)


def use_deterministic_kernels() -> None:
    """Let TensorFlow use deterministic kernels only; JAX has no others on a CPU."""
    if TENSORFLOW:
        _engine().config.experimental.enable_op_determinism()


def has_accelerator() -> bool:
    """Whether Keras computes on a GPU or a TPU."""
    return not all(name.startswith("cpu") for name in keras.distribution.list_devices())


def compile_options() -> dict[str, Any]:
    """Options of Keras's `compile`: XLA takes longer than a short training on TensorFlow.

    JAX compiles by XLA or not at all.
    """
    return {"jit_compile": False} if TENSORFLOW else {}


def initialise(variables: Sequence[Any], seed: int) -> None:
    """Glorot's uniform first values for all kernels that are not zero, the same on each backend.

    A kernel is what has two axes or more; Keras's own initialisers differ between backends.
    """
    rng = np.random.default_rng(seed)
    for variable in variables:
        if len(variable.shape) > 1 and np.any(ops.convert_to_numpy(variable.value)):
            *field, fan_in, fan_out = variable.shape
            limit = math.sqrt(6.0 / ((fan_in + fan_out) * math.prod(field)))
            variable.assign(rng.uniform(-limit, limit, variable.shape))


class _Scope(keras.StatelessScope):
    """A stateless scope that sees what the one around it holds, and lists what was assigned."""

    state_mapping: dict[int, Any]

    def __enter__(self) -> Any:
        super().__enter__()
        self.assigned: dict[int, Any] = {}
        if self.original_scope is not None:
            self.state_mapping = {**self.original_scope.state_mapping, **self.state_mapping}
        return self

    def add_update(self, update: tuple[Any, Any]) -> None:
        super().add_update(update)
        self.assigned[id(update[0])] = update[0]


def _jax_gradient(
    function: Callable[[Any], tuple[Any, Any]], x: Any, variables: Sequence[Any] = ()
) -> tuple[Any, Any, Any]:
    """Value, aux and gradient of function(x), where the variables, if any, have the values x."""
    assigned: list[Any] = []

    def traced(x: Any) -> Any:
        with _Scope([(v, x[i]) for i, v in enumerate(variables)]) as scope:
            value, aux = function(x)
        assigned[:] = scope.assigned.values()
        return value, (aux, [scope.get_current_value(v) for v in assigned])

    (value, (aux, changes)), gradient = _engine().value_and_grad(traced, has_aux=True)(x)
    for variable, change in zip(assigned, changes, strict=True):
        variable.assign(change)
    return value, aux, gradient


def value_and_gradients(
    loss: Callable[[], tuple[Any, Any]], variables: Sequence[Any]
) -> tuple[Any, Any, list[Any]]:
    """Value and aux that `loss` returns, and the gradients of the value.

    What the loss assigns to other variables (moving statistics, seeds) stays.
    """
    if not TENSORFLOW:
        return _jax_gradient(lambda _: loss(), [v.value for v in variables], variables)
    with _engine().GradientTape() as tape:
        value, aux = loss()
    return value, aux, tape.gradient(value, variables)


def input_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Gradient of sum(function(x)) with respect to x; a loss may contain it."""
    if not TENSORFLOW:
        return _jax_gradient(lambda x: (ops.sum(function(x)), ()), x)[2]
    with _engine().GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def compile_steps(
    step: Callable[..., Sequence[Any]],
    variables: Sequence[Any],
    numbers: int = 1,
    jit: bool = False,
) -> Callable[[Sequence[Any], int], NDArray[np.float32]]:
    """Many steps of a training as one compiled call.

    Parameters
    ----------
    step
        Called with one slice of each array; returns scalars.
    variables
        All Keras variables that the steps read or assign.
    numbers
        How many scalars a step returns.
    jit
        Whether TensorFlow compiles with XLA, which takes 10 to 50 s on a CPU; JAX always does.

    Returns
    -------
    run
        Function of arrays (n, ...) and a count up to n that does the first `count` steps and
        returns what they returned, (count, numbers). It compiles anew only for another n.
    """
    if TENSORFLOW:
        compiled = _tensorflow_loop(_engine(), step, numbers, jit)
    else:
        compiled = _jax_loop(_engine(), step, variables, numbers)

    def run(arrays: Sequence[Any], count: int) -> NDArray[np.float32]:
        return np.asarray(compiled(tuple(arrays), np.int32(count)))[:count]

    return run


def _tensorflow_loop(tf: Any, step: Callable[..., Sequence[Any]], numbers: int, jit: bool) -> Any:
    def loop(arrays: Any, count: Any) -> Any:
        def body(i: Any, rows: Any) -> Any:
            row = tf.stack([tf.cast(x, tf.float32) for x in step(*(a[i] for a in arrays))])
            return i + 1, tf.tensor_scatter_nd_update(rows, [[i]], row[None])

        start = (tf.constant(0), tf.zeros((arrays[0].shape[0], numbers)))
        return tf.while_loop(lambda i, _: i < count, body, start, parallel_iterations=1)[1]

    return tf.function(loop, jit_compile=jit, autograph=False)


def _jax_loop(jax: Any, step: Callable[..., Sequence[Any]], variables: Any, numbers: int) -> Any:
    def loop(values: Any, arrays: Any, count: Any) -> Any:
        def body(i: Any, carry: Any) -> Any:
            values, rows = carry
            with _Scope(list(zip(variables, values, strict=True))) as scope:
                row = ops.stack([ops.cast(x, "float32") for x in step(*(a[i] for a in arrays))])
            if lost := set(scope.assigned) - {id(v) for v in variables}:
                raise ValueError(f"not in variables: {scope.assigned[lost.pop()].path}")
            return [scope.get_current_value(v) for v in variables], rows.at[i].set(row)

        start = (values, ops.zeros((arrays[0].shape[0], numbers)))
        return jax.lax.fori_loop(0, count, body, start)

    compiled = jax.jit(loop)

    def call(arrays: Any, count: Any) -> Any:
        values, rows = compiled([v.value for v in variables], arrays, count)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return rows

    return call

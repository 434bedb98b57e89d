"""Nonlinearities: closed forms at infinite width, and the functions themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import check_array, check_positive
from genjax.ntk.infinite import duals
from genjax.ntk.infinite.state import (
    Field,
    Layer,
    Needs,
    Scalar,
    State,
    apart,
    diagonal,
    eye,
    is_full,
    layer,
    outer,
    static,
)


class _Activation(Layer):
    """A nonlinearity applied to each channel and position."""

    def function(self, u: Array) -> Array:
        """The nonlinearity."""
        raise NotImplementedError

    def pair(
        self, v1: Array, v2: Array, k: Array, gap: Array | None, same: Array | None, tangent: bool
    ) -> tuple[Array, Array | None, Array | None]:
        """Dual, dual of the derivative (if ``tangent``) and gap of the output (if its precision is kept)."""
        raise NotImplementedError

    def needs(self, above: Needs) -> Needs:
        return Needs(above.positions, max(above.variance, 1))

    def propagate(self, state: State) -> State:
        if not state.gaussian:
            raise ValueError(
                f"`{self.name}` needs Gaussian inputs for its closed form, but no dense, conv or attention layer comes "
                "directly before it; insert one, or use genjax.ntk.monte_carlo_kernel"
            )
        q1, q2 = state.alone()
        v1, v2 = outer(diagonal(q1, state.shape), diagonal(q2, state.shape), state.full)
        if state.full:
            k, ntk, gap = self._apart(state, v1, v2)
        else:
            k, slope, gap = self.pair(v1, v2, state.nngp, state.gap, state.same, state.ntk is not None)
            ntk = None if slope is None or state.ntk is None else slope * state.ntk
        return state.replace(
            nngp=k,
            ntk=ntk,
            q1=self._alone(q1, state.shape),
            q2=self._alone(q2, state.shape),
            gap=gap,
            gaussian=False,
            fresh=False,
        )

    def _apart(self, state: State, v1: Array, v2: Array) -> tuple[Array, Array | None, None]:
        def both(k: Array, *ntk: Array) -> tuple[Array, ...]:
            k, slope, _ = self.pair(v1, v2, k, None, state.same_position, bool(ntk))
            return k, *(slope * t for t in ntk if slope is not None)

        if state.ntk is None:
            (k,) = apart(state.always, both, state.nngp)
            return k, None, None
        k, ntk = apart(state.always, both, state.nngp, state.ntk)
        return k, ntk, None

    def _alone(self, q: Array, shape: tuple[int, ...]) -> Array:
        full = is_full(q, shape)
        v1, v2 = outer(diagonal(q, shape), diagonal(q, shape), full)
        return self.pair(v1, v2, q, None, eye(shape) if full else jnp.array(True), False)[0]

    def apply(self, params: Any, field: Field) -> Field:
        del params
        return field._replace(x=self.function(field.x))


class _AngleActivation(_Activation):
    """A positively homogeneous function, whose dual is the product of the norms' powers and a function of the angle."""

    @property
    def power(self) -> int:
        """Degree of homogeneity."""
        return 1

    def of_ratio(self, ratio: Array) -> tuple[Array, Array | float, Array | None]:
        """Dual, derivative dual and loss K(0) - K (or None) at unit variances, from 1 - cosine."""
        raise NotImplementedError

    def pair(
        self, v1: Array, v2: Array, k: Array, gap: Array | None, same: Array | None, tangent: bool
    ) -> tuple[Array, Array | None, Array | None]:
        s1, s2 = duals.root(v1), duals.root(v2)
        geometric, spread = s1 * s2, (s1 - s2) ** 2 / 2
        ratio = duals.one_minus_cosine(s1, s2, k, gap, same)
        value, slope, loss = self.of_ratio(ratio)
        if gap is not None and loss is not None:
            gap = self.of_ratio(jnp.zeros((), ratio.dtype))[0] * spread + geometric * loss
        return (
            geometric**self.power * value,
            geometric ** max(self.power - 1, 0) * slope if tangent else None,
            None if loss is None else gap,
        )


class _SmoothActivation(_Activation):
    """A function whose dual has a closed form in the moments; its derivative follows by Price's theorem."""

    def dual(self, v1: Array, v2: Array, k: Array) -> Array:
        """The dual."""
        raise NotImplementedError

    def pair(
        self, v1: Array, v2: Array, k: Array, gap: Array | None, same: Array | None, tangent: bool
    ) -> tuple[Array, Array | None, Array | None]:
        del gap
        if same is not None:
            k = jnp.where(same, v1, k)
        if tangent:
            return *duals.with_derivative(self.dual, v1, v2, k), None
        return self.dual(v1, v2, k), None, None


@layer
class _PiecewiseLinear(_AngleActivation):
    negative: float = static()
    positive: float = static()
    name: str = static(default="abrelu")

    def function(self, u: Array) -> Array:
        return self.negative * jnp.minimum(u, 0) + self.positive * jnp.maximum(u, 0)

    def of_ratio(self, ratio: Array) -> tuple[Array, Array, Array]:
        return duals.arc_cosine(ratio, (self.negative, self.positive))


@layer
class _RectifiedMonomial(_AngleActivation):
    degree: int = static()

    name = "rectified_monomial"

    @property
    def power(self) -> int:
        return self.degree

    def function(self, u: Array) -> Array:
        return jnp.where(u > 0, u**self.degree, 0)

    def of_ratio(self, ratio: Array) -> tuple[Array, Array, None]:
        theta, sine = duals.angle(ratio)
        cosine, rest = 1 - ratio, jnp.pi - theta
        zeroth = rest
        orders = [zeroth, sine + rest * cosine, 3 * sine * cosine + rest * (1 + 2 * cosine**2)]
        scaled = [order / (2 * jnp.pi) for order in orders]
        slope = self.degree**2 * scaled[self.degree - 1] if self.degree else jnp.zeros_like(ratio)
        return scaled[self.degree], slope, None


@layer
class _Sign(_AngleActivation):
    name = "sign"

    @property
    def power(self) -> int:
        return 0

    def function(self, u: Array) -> Array:
        return jnp.sign(u)

    def of_ratio(self, ratio: Array) -> tuple[Array, Array, None]:
        return 1 - 2 / jnp.pi * duals.angle(ratio)[0], jnp.zeros_like(ratio), None


@layer
class _Erf(_SmoothActivation):
    name = "erf"

    def function(self, u: Array) -> Array:
        return jax.lax.erf(u)

    def dual(self, v1: Array, v2: Array, k: Array) -> Array:
        return duals.erf(v1, v2, k)


@layer
class _Gelu(_SmoothActivation):
    name = "gelu"

    def function(self, u: Array) -> Array:
        return jax.nn.gelu(u, approximate=False)

    def dual(self, v1: Array, v2: Array, k: Array) -> Array:
        return duals.gelu(v1, v2, k)


@layer
class _Sinusoid(_SmoothActivation):
    amplitude: Scalar
    frequency: Scalar
    phase: Scalar
    name: str = static(default="sin")

    def function(self, u: Array) -> Array:
        return self.amplitude * jnp.sin(self.frequency * u + self.phase)

    def dual(self, v1: Array, v2: Array, k: Array) -> Array:
        return jnp.asarray(self.amplitude) ** 2 * duals.sinusoid(
            jnp.asarray(self.frequency), jnp.asarray(self.phase), v1, v2, k
        )


@layer
class _Exp(_SmoothActivation):
    rate: Scalar

    name = "exp"

    def function(self, u: Array) -> Array:
        return jnp.exp(self.rate * u)

    def dual(self, v1: Array, v2: Array, k: Array) -> Array:
        return duals.exponential(jnp.asarray(self.rate), v1, v2, k)


@layer
class _Gaussian(_SmoothActivation):
    decay: Scalar

    name = "gaussian"

    def function(self, u: Array) -> Array:
        return jnp.exp(-self.decay * u**2)

    def dual(self, v1: Array, v2: Array, k: Array) -> Array:
        return duals.bell(jnp.asarray(self.decay), v1, v2, k)


@layer
class _Polynomial(_SmoothActivation):
    coefficients: Array
    name: str = static(default="polynomial")

    def function(self, u: Array) -> Array:
        return jnp.polyval(self.coefficients[::-1].astype(u.dtype), u)

    def dual(self, v1: Array, v2: Array, k: Array) -> Array:
        return duals.polynomial(self.coefficients.astype(k.dtype), v1, v2, k)


@layer
class _Elementwise(_SmoothActivation):
    f: Callable[[Array], Array] = static()
    degree: int = static()

    name = "elementwise"

    def function(self, u: Array) -> Array:
        return self.f(u)

    def dual(self, v1: Array, v2: Array, k: Array) -> Array:
        return duals.hermite_series(self.f, self.degree, v1, v2, k)


def relu() -> Layer:
    r"""Rectifier :math:`\max(u, 0)`; dual :math:`\frac12 \sqrt{v_1 v_2}\, \kappa_1(\theta)`.

    Returns:
      The layer.

    References:
      Cho and Saul (2009), NeurIPS, eqs. 5-6.
    """
    return _PiecewiseLinear(0.0, 1.0, "relu")


def leaky_relu(negative_slope: float) -> Layer:
    r"""Leaky rectifier: slope 1 for positive arguments, a for negative ones.

    Args:
      negative_slope: a; decides the architecture, so it is not differentiated.

    Returns:
      The layer.

    References:
      Tsuchida et al. (2018), arXiv:1711.09090.
    """
    return _PiecewiseLinear(float(negative_slope), 1.0, "leaky_relu")


def abrelu(negative_slope: float, positive_slope: float) -> Layer:
    r"""Any piecewise linear function with its kink at 0: :math:`a \min(u, 0) + b \max(u, 0)`.

    Args:
      negative_slope: a.
      positive_slope: b.

    Returns:
      The layer.

    References:
      Tsuchida et al. (2018), arXiv:1711.09090.
    """
    return _PiecewiseLinear(float(negative_slope), float(positive_slope), "abrelu")


def abs() -> Layer:  # the field's name for it, always written with its module
    r"""Absolute value :math:`|u|`.

    Returns:
      The layer.

    References:
      Cho and Saul (2009), NeurIPS (as ``abrelu(-1, 1)``).
    """
    return _PiecewiseLinear(-1.0, 1.0, "abs")


def sign() -> Layer:
    r"""Sign; dual :math:`1 - 2\theta/\pi`. Its derivative is 0 almost everywhere, so layers below are not trained.

    Returns:
      The layer.

    References:
      Williams (1997), NeurIPS; Cho and Saul (2009), NeurIPS, eq. 4.
    """
    return _Sign()


def rectified_monomial(degree: int) -> Layer:
    r"""Powers of the rectifier, :math:`\max(u, 0)^d`; degree 0 is the step function.

    Args:
      degree: d, one of 0, 1, 2.

    Returns:
      The layer.

    Raises:
      ValueError: another degree.

    References:
      Cho and Saul (2009), NeurIPS, eqs. 4-7.
    """
    if degree not in (0, 1, 2):
        raise ValueError(f"`degree` must be one of 0, 1, 2, but {degree!r} came")
    return _RectifiedMonomial(degree)


def erf() -> Layer:
    r"""Error function; dual :math:`\frac{2}{\pi} \arcsin \frac{2 k}{\sqrt{(1 + 2 v_1)(1 + 2 v_2)}}`.

    Returns:
      The layer.

    References:
      Williams (1997), NeurIPS, eq. 11.
    """
    return _Erf()


def gelu() -> Layer:
    r"""Gaussian error linear unit, :math:`u\, \Phi(u)` (exact form).

    Returns:
      The layer.

    References:
      Tsuchida et al. (2021), arXiv:2002.08517.
    """
    return _Gelu()


def sin(amplitude: ArrayLike = 1.0, frequency: ArrayLike = 1.0, phase: ArrayLike = 0.0) -> Layer:
    r"""Sinusoid :math:`A \sin(a u + b)`; dual :math:`\frac{A^2}{2} [e^{-a^2 (m - k)} - \cos(2b)\, e^{-a^2 (m + k)}]`.

    Here :math:`m = (v_1 + v_2) / 2`.

    Args:
      amplitude: A.
      frequency: a.
      phase: b, in radians.

    Returns:
      The layer.

    References:
      Pearce et al. (2019), arXiv:1905.06076.
    """
    return _Sinusoid(amplitude, frequency, phase)


def cos(amplitude: ArrayLike = 1.0, frequency: ArrayLike = 1.0, phase: ArrayLike = 0.0) -> Layer:
    r"""Sinusoid :math:`A \cos(a u + b)`.

    Args:
      amplitude: A.
      frequency: a.
      phase: b, in radians.

    Returns:
      The layer.

    References:
      Pearce et al. (2019), arXiv:1905.06076.
    """
    return _Sinusoid(amplitude, frequency, phase + math.pi / 2, "cos")


def rbf(gamma: ArrayLike = 1.0) -> Layer:
    r"""Random Fourier features :math:`\sqrt{2} \sin(\sqrt{2 \gamma}\, u + \pi / 4)`.

    Dual :math:`e^{-\gamma (v_1 + v_2 - 2 k)}`.

    After ``dense(1, 0)`` the NNGP is a Gaussian kernel of the inputs.

    Args:
      gamma: inverse squared length, positive.

    Returns:
      The layer.

    Raises:
      ValueError: ``gamma`` is not positive.

    References:
      Rahimi and Recht (2007), NeurIPS.
    """
    check_positive("gamma", gamma)
    return _Sinusoid(2**0.5, jnp.sqrt(2 * jnp.asarray(gamma)), math.pi / 4, "rbf")


def exp(rate: ArrayLike = 1.0) -> Layer:
    r"""Exponential :math:`e^{a u}`; dual :math:`e^{a^2 (v_1 + v_2 + 2 k) / 2}`.

    Args:
      rate: a.

    Returns:
      The layer.

    References:
      Mairal et al. (2014), arXiv:1406.3332; the moment generating function of a Gaussian pair.
    """
    return _Exp(rate)


def gaussian(decay: ArrayLike = 1.0) -> Layer:
    r"""Bell :math:`e^{-b u^2}`; dual :math:`[(1 + 2 b v_1)(1 + 2 b v_2) - 4 b^2 k^2]^{-1/2}`.

    Args:
      decay: b, positive.

    Returns:
      The layer.

    Raises:
      ValueError: ``decay`` is not positive.

    References:
      Williams (1997), NeurIPS.
    """
    check_positive("decay", decay)
    return _Gaussian(decay)


def polynomial(coefficients: ArrayLike) -> Layer:
    r"""Polynomial :math:`\sum_m a_m u^m`, exact at any variance.

    Args:
      coefficients: :math:`a_0, a_1, \ldots`, ``float[degree + 1]``.

    Returns:
      The layer.

    References:
      Daniely et al. (2016), arXiv:1602.05897, section 4.
    """
    return _Polynomial(check_array("coefficients", coefficients, ndim=1))


def monomial(degree: int) -> Layer:
    r"""Power :math:`u^d`.

    Args:
      degree: d, a positive whole number.

    Returns:
      The layer.

    Raises:
      ValueError: not so.

    References:
      Daniely et al. (2016), arXiv:1602.05897, section 4.
    """
    check_positive("degree", degree, integer=True)
    return _Polynomial(jnp.zeros(degree + 1).at[degree].set(1.0), "monomial")


def hermite(degree: int) -> Layer:
    r"""Orthonormal Hermite polynomial (of the standard normal); dual :math:`k^d` at unit variances.

    Args:
      degree: d, a positive whole number.

    Returns:
      The layer.

    Raises:
      ValueError: not so.

    References:
      Daniely et al. (2016), arXiv:1602.05897, section 4.
    """
    check_positive("degree", degree, integer=True)
    coefficients = jnp.zeros(degree + 1)
    for i in range(degree // 2 + 1):
        power = degree - 2 * i
        value = (-1) ** i * math.factorial(degree) ** 0.5 / (2**i * math.factorial(i) * math.factorial(power))
        coefficients = coefficients.at[power].set(value)
    return _Polynomial(coefficients, "hermite")


def elementwise(f: Callable[[Array], Array], degree: int = 32) -> Layer:
    r"""Any function, by its Hermite series: :math:`\sum_{j \le J} c_j(v_1) c_j(v_2) \rho^j`.

    The coefficients :math:`c_j(v) = E[f(\sqrt{v} z) h_j(z)]` come from Gauss-Hermite quadrature. For analytic functions
    the error falls geometrically with the degree; a kink leaves about :math:`J^{-3/2}`.

    Args:
      f: function of arrays, applied elementwise, differentiable in JAX.
      degree: J, largest Hermite degree, positive.

    Returns:
      The layer. ``f`` is part of the compiled program: pass the same object to avoid compiling again.

    Raises:
      ValueError: ``degree`` is not a positive whole number.

    References:
      Daniely et al. (2016), arXiv:1602.05897, section 4; Mehler (1866).
    """
    check_positive("degree", degree, integer=True)
    return _Elementwise(f, degree)

"""Floors under every dictionary of a width: closed forms, and the kernels that :func:`cvxsae.width_floor` takes."""

from cvxsae.relaxations.floors.kernels import ZonalKernel, exponential_kernel
from cvxsae.relaxations.floors.spectral import spectral_floor

__all__ = ["ZonalKernel", "exponential_kernel", "spectral_floor"]

"""Scale studies: a declarative grid of certified cells, run anywhere, resumed anywhere, read as one table."""

from cvxsae.validation.study.scale_study import ScaleStudy

__all__ = ["ScaleStudy"]

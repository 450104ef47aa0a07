from .convex.solve import SOLVERS as SOLVERS

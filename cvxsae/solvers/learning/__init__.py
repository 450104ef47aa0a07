"""Dictionary learning: the nonconvex optimum that sparse autoencoders approximate, with exact codes."""

from cvxsae.solvers.learning.fit import DictionaryFit
from cvxsae.solvers.learning.learn import grow, learn_dictionary
from cvxsae.solvers.learning.shrink import penalty_path, shrink

__all__ = ["DictionaryFit", "grow", "learn_dictionary", "penalty_path", "shrink"]

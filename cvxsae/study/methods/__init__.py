"""The methods of a study, one file each; :mod:`cvxsae.study.registry` lists them."""

"""Check an answer of ``cvxsae solve {wide,codes} DATA --out answer.npz`` with numpy alone: no cvxsae, no solver.

    cvxsae solve codes digits --dictionary atoms.npy --lam-ratio 0.2 --out answer.npz
    python examples/verify_certificate.py codes digits.npy answer.npz

The problem (wide or codes), the datapoints as they were solved (rows), the arrays and λ.
"""

import sys

import numpy as np

kind, X, answer = sys.argv[1], np.load(sys.argv[2]).astype(np.float64), np.load(sys.argv[3])
lam, bias, D, Y = float(answer["lam"]), answer["bias"], answer["dictionary"], answer["dual"]
if "codes" in answer:
    Z = answer["codes"]
else:  # a sparse matrix, row by row
    Z = np.zeros((len(X), len(D)))
    rows = np.repeat(np.arange(len(X)), np.diff(answer["codes.indptr"]))
    Z[rows, answer["codes.indices"]] = answer["codes.data"]

# The value: anyone can recompute it.
residual = X - bias - Z @ D
value = (np.sum(residual**2) / 2 + lam * Z.sum()) / len(X)

# The lower bound: the dual objective, valid because Y satisfies the dual constraints.
lower_bound = (np.sum((X - bias) * Y) - np.sum(Y**2) / 2) / len(X)
wide = kind == "wide"
limit = np.linalg.norm(Y, axis=1).max() if wide else (Y @ D.T).max()
drift = np.linalg.norm(Y.mean(axis=0))

print(f"codes ≥ 0: {Z.min() >= 0}, unit-norm atoms: {np.allclose(np.linalg.norm(D, axis=1), 1, atol=1e-9)}")
print(f"dual constraint {'‖y_n‖' if wide else 'd_k·y_n'} ≤ λ: {limit:.12g} ≤ {lam:.12g}")
print(f"‖mean y_n‖/λ: {drift / lam:.1e} (must be zero if the bias was free)")
print(f"value {value:.12g}, lower bound {lower_bound:.12g}, relative gap {(value - lower_bound) / value:.1e}")

# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: from an SAE to a report
#
# You have a sparse autoencoder (SAE) in a folder and activations in a file.
# In ten minutes you will know what causes its loss: how much the encoder loses, how much a better dictionary of the same width would gain, and what no dictionary can reach.
#
# From a clone of the repository, install the package with the example data and the HTML report:
#
# ```sh
# pip install '.[data,report]'
# ```
#
# Two commands do everything in this notebook from the command line:
#
# ```sh
# cvxsae example example
# cvxsae audit example/activations.npy --sae example --stationarity 0.01 --report example/report.html
# ```

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from cvxsae import SparseAutoencoder, audit
from cvxsae.sae import write_example

plt.style.use("tableau-colorblind10")

# %% tags=["parameters"]
FOLDER = "example"  # where the SAE and its activations are
N_ATOMS = 64  # width of the example SAE
ROWS = 8000  # rows that train the example SAE, and as many others to audit it on

# %% [markdown]
# ## An SAE and activations
#
# The next cell trains a small SAE on the token embeddings of a language model and writes it to a folder, in the layout of SAELens.
# It also writes embeddings that the SAE was not trained on.
# Training is short on purpose, so that there is something to find.
#
# If you have your own SAE, skip this cell, and set `FOLDER` and the path of the activations below.
# `SparseAutoencoder.load` reads the folders and files of SAELens, dictionary_learning, sparsify, Gemma Scope and others.
# Use activations that the SAE was not trained on.

# %%
example = write_example(FOLDER, n_atoms=N_ATOMS, rows=ROWS)
print(*sorted(path.name for path in Path(FOLDER).iterdir()), sep="\n")

# %%
sae = SparseAutoencoder.load(FOLDER)
X = np.load(example.activations)
print(sae)
print(f"{len(X):,} activations in {X.shape[1]} dimensions")

# %% [markdown]
# ## Does the SAE fit the activations?
#
# A wrong scale, a bias that is applied twice or a transposed matrix would make every later number meaningless.
# `self_test` reconstructs some of the activations; if that fails, it names the likely cause.
# `audit` runs the same test first.

# %%
test = sae.self_test(X)
print(test)
assert test.passed

# %% [markdown]
# ## The audit
#
# The audit compares the loss of the SAE with four levels below it:
#
# 1. the loss of the *same dictionary with the best possible codes*;
# 2. the loss of the *best dictionary of the same width that was found*;
# 3. a floor that *no dictionary of this width* can get below;
# 4. a floor that *no dictionary of any width* can get below.
#
# The loss is the mean of `½‖x − x̂‖² + λ Σ z` over activations, with atoms of length one.
# For an SAE that was trained on `‖x − x̂‖² + c Σ z`, λ is `c/2`, and the audit reads it from the SAE's file.
#
# A quarter of the activations is held out: the better dictionary is learned on the others, and every number is about the held-out activations.
# This matters, because any dictionary looks better on the activations that it was fitted to.
#
# `stationarity` sets how far the search for a better dictionary goes; 0.01 takes seconds here, and smaller numbers take longer and find a little more.

# %%
found = audit(X, sae, stationarity=0.01, report=Path(FOLDER) / "report.html")
for sentence in found.sentences:
    print("*", sentence)

# %% [markdown]
# The first sentence says what to change first.
# Its numbers come in pairs: the gain *for the distribution* of activations, with 95 % confidence, and the gain on the held-out activations, which needs no statistics.
# "At least" means that there are codes or a dictionary that attain the gain.
# "At most" means that a bound proves that nothing can gain more.
#
# The report, `example/report.html`, is one page with all figures and tables; you can send it to others, and it needs no network.
# The same numbers are beside it as JSON.

# %%
ledger = found.ledger
ledger.table()[["line", "amount", "share", "low", "high", "certificate"]]

# %%
levels = {
    "the SAE": ledger.loss,
    "exact codes": ledger.exact,
    "better dictionary": ledger.local,
    "floor, this width": ledger.floor,
    "floor, any width": ledger.wide,
}
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
attained = [True, True, True, False, False]
bars = axes.barh(list(levels), list(levels.values()), color=["C0" if it_is else "C1" for it_is in attained])
axes.bar_label(bars, fmt="%.3f", padding=16)
for name, estimate in (("the SAE", "loss"), ("exact codes", "exact"), ("better dictionary", "local")):
    interval = ledger.estimates[estimate]
    axes.plot([interval.low, interval.high], [name, name], color="black", linewidth=1)
axes.invert_yaxis()
axes.set_xlim(0, 1.2 * max(levels.values()))
axes.set_xlabel("loss: mean of ½‖x − x̂‖² + λ Σ z per activation held out")
axes.set_title("blue: attained; orange: no dictionary is below; black: 95 % interval", fontsize="medium")
plt.show()

# %% [markdown]
# ## How to read it
#
# - **Encoder.**
#   The step from the SAE to exact codes is the loss due to its encoder.
#   Finding the codes for a fixed dictionary is a convex problem, so this number is known almost exactly.
# - **Dictionary.**
#   The step to the better dictionary is the gain that a few seconds of search found.
#   You could have this gain, and a longer search may find more.
# - **Open.**
#   Nothing is known between the better dictionary and the floor of this width: neither a dictionary that gets there, nor a proof that there is none.
#   The floor is not a target.
# - **Width.**
#   Only more atoms can gain the step between the two floors.
#
# Floors are proofs, and proofs can be checked.
# For every number, the audit had the referee recompute it from the activations and the arrays, with code that shares nothing with the solvers.

# %%
assert ledger.loss >= ledger.exact >= ledger.floor >= ledger.wide
assert ledger.codes_gap <= 0.01, "exact codes are exact to a relative gap of one percent or better"
assert Path(FOLDER, "report.html").is_file()
print(f"exact codes are known to a relative gap of {ledger.codes_gap:.0e}")
print(f"the floor of any width is known to a relative gap of {ledger.wide_gap:.0e}")

# %% [markdown]
# ## What to change
#
# | the report names | what helps |
# |---|---|
# | the encoder | train the encoder longer at a fixed dictionary, or use exact codes (`cvxsae.encode`) |
# | the dictionary | train longer, resample dead features, or start from the better dictionary (`found.ledger.dictionary`) |
# | the width | more atoms; [How wide should it be?](how_wide.ipynb) tests whether they pay off on unseen activations |
# | nothing, or open | a longer search (`stationarity=1e-4`) or more activations |
#
# Next, [Audit an SAE](audit_an_sae.ipynb) looks at all parts of an audit, and [What the optimum does](what_the_optimum_does.ipynb) looks at features that even a perfect SAE would get wrong.

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
# # What the optimum does
#
# Trained SAEs show absorption, splitting and antipodal features.
# Is that a failure of training, or does the loss ask for it?
# This notebook looks at small problems with a proven *global optimum*, so that training cannot be the cause of anything.
#
# The problem is the one that an SAE with an L1 penalty approximates: minimize the mean of `½‖x − b − z D‖² + λ Σ z` over unit-norm atoms and nonnegative codes.
# `solve_globally` finds the least value over *all* dictionaries by branch and bound, together with a lower bound that holds for all of them.
# If the two agree, the optimum is certified.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cvxsae import check_optimality, learn_dictionary, solve_globally
from cvxsae.data import circle_feature, dense_signed_feature
from cvxsae.penalties import L0, L1, Matryoshka, Orthogonality, TopOne

plt.style.use("tableau-colorblind10")
LAM = 0.1

# %% tags=["parameters"]
SOLOS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)  # how often the child feature fires alone
PENALTIES = (L1(), L0(), TopOne(), Orthogonality(0.2), Matryoshka(0.25))
POLYGONS = (3, 4, 6, 8)  # numbers of atoms for the circle
POINTS = 840  # datapoints on the circle, a multiple of every number of atoms

# %% [markdown]
# ## A child absorbs its parent
#
# There are two true features at a right angle, a *parent* and a *child*.
# The parent fires alone on half of the datapoints.
# On the other half both fire; the child never fires without its parent.
# We compute the best dictionary of two atoms.

# %%
parent, child = np.eye(2)
pair = solve_globally([parent, parent + child], 2, LAM)
print(pair)
assert pair.is_certified

# %% [markdown]
# One atom is the parent.
# The other is not the child, but the normalized *sum of parent and child*.
# On datapoints where both fire, the optimum uses this atom alone, and the parent's atom is silent although the parent is present.
# This is feature absorption.
# It is not a failure of training, since no dictionary of two atoms has a lower loss than this one.
#
# The reason is the price of codes: two codes of size one cost 2λ, and one code of size √2 costs 1.41λ.


# %%
def draw_pair(axes, found, title):
    """Draw the true features and the atoms of an optimum."""
    for name, tip, at in (("parent", parent, (0.75, -0.13)), ("child", child, (-0.08, 0.75))):
        axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": "0.55", "lw": 5})
        axes.text(*at, name, color="0.35", ha="center" if name == "parent" else "right")
    for atom in found.dictionary:
        axes.annotate("", atom, (0, 0), arrowprops={"arrowstyle": "->", "color": "C1", "lw": 2})
    axes.set(xlim=(-0.4, 1.2), ylim=(-0.3, 1.2), aspect="equal", title=title)
    axes.set(xlabel="first coordinate", ylabel="second coordinate")


free = solve_globally([parent, child, parent + child], 2, LAM)
assert free.is_certified
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
draw_pair(axes[0], pair, "child only with its parent")
draw_pair(axes[1], free, "child also alone")
figure.suptitle("gray: true features; orange: atoms of the certified optimum", fontsize="medium")
plt.show()

# %% [markdown]
# On the right, the child fires alone on a third of the datapoints, and both atoms are close to the true features.
# They are not equal to them: two features that fire together lean towards each other.

# %% [markdown]
# ## How often must the child fire alone?
#
# Now the child fires alone with a small probability, and we follow its atom.
# δ is the amount of the parent in this atom: at δ = 1 parent and child have equal parts, and at δ = 0 the atom is the child alone.

# %%
rows = []
for solo in SOLOS:
    points, weights = [parent, parent + child], [0.4, 0.2]
    if solo:
        points, weights = [*points, child], [*weights, solo]
    found = solve_globally(points, 2, LAM, weights=weights)
    assert found.is_certified
    atom = found.dictionary[found.dictionary[:, 1].argmax()]
    rows.append({"child alone": solo / sum(weights), "δ": atom[0] / atom[1], "loss": found.value, "gap": found.gap})
partial = pd.DataFrame(rows)
partial.round(4)

# %%
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.plot(partial["child alone"], partial["δ"], "o-")
axes.set(xlabel="share of datapoints on which the child fires alone", ylabel="δ: parent's part in the child's atom")
axes.set_ylim(0, 1.05)
plt.show()
assert partial["δ"].iloc[0] > 0.999 and partial["δ"].is_monotonic_decreasing

# %% [markdown]
# There are two regimes.
# If the child is rarely alone, absorption stays nearly complete.
# If it is alone more often, its atom contains less of the parent, but some of it remains.
#
# ## A second child
#
# A parent may have several children.
# Here it has two, at right angles, and there are three atoms.
# Three dimensions and three atoms are too many for branch and bound, but there is another certificate: no dictionary of *any* width is below the wide limit, and this optimum attains it.

# %%
e1, e2, e3 = np.eye(3)
family = np.array([e1, e1 + e2, e1 + e3])
fit = learn_dictionary(family, 3, LAM, bias=None, stationarity=1e-8)
print(f"loss {fit.value:.6f}, and no dictionary of any width is below {fit.lower_bound:.6f}: {fit.status.name}")
pd.DataFrame(fit.dictionary.round(3), columns=["parent", "first child", "second child"]).rename_axis("atom")

# %%
assert fit.status.name == "CERTIFIED"
both = fit.dictionary @ np.array([e1, (e1 + e2) / np.sqrt(2), (e1 + e3) / np.sqrt(2)]).T
assert both.max(axis=0).min() > 1 - 1e-6, "the atoms are the parent and its sums with either child"

# %% [markdown]
# Each child absorbs the parent on its own datapoints, so the parent's direction is in all three atoms.
# A probe for the parent would have to use three atoms, not one.
#
# ## Do other losses absorb?
#
# L1 is not the only choice.
# The same problem has certified global optima under other losses too: L0 (the objective of a JumpReLU SAE), Top-1, an added price for atoms that are not orthogonal, and a Matryoshka loss, which also requires the first atom to reconstruct alone.


# %%
def verdict(found):
    """Name what the two atoms are, by their angles in degrees; the parent is at 0 and the child at 90."""
    angles = np.sort(np.rad2deg(np.arctan2(found.dictionary[:, 1], found.dictionary[:, 0])))
    named = {(0, 90): "nearly the true features", (0, 45): "absorbed: parent, and parent + child"}
    for known, name in named.items():
        if np.abs(angles - known).max() < 5:
            return angles, name
    return angles, "something else"


rows = []
for share in (0.5, 0.2):
    for penalty in PENALTIES:
        found = solve_globally([parent, parent + child], 2, LAM, penalty=penalty, weights=[1 - share, share])
        assert found.is_certified
        angles, name = verdict(found)
        rows.append(
            {"loss": penalty.name, "both fire": share, "angle 1": angles[0], "angle 2": angles[1], "optimum": name}
        )
table = pd.DataFrame(rows)
table.round(1)

# %%
thresholds = table[table["loss"].isin([L1().name, L0().name, TopOne().name])]
assert thresholds["optimum"].str.startswith("absorbed").all()

# %% [markdown]
# L1, L0 and Top-1 all absorb, at every probability.
# A theorem says that this holds for every penalty that only depends on the sum or the number of active codes ([theory](../theory.md), T16).
# The other two do not absorb here, but they do not always find the true features either: if both fire often, the first atom is close to the sum, and the second points away from the child.
# [Which successor absorbs?](../successors.md) has the full table.
#
# ## A circle has no natural width
#
# Some features are not directions.
# Here the datapoints lie evenly on a circle, as for days of the week or angles.
# The best dictionary of M atoms is a regular polygon (exactly so as λ goes to zero), and going from M to M + 1 moves every atom.
# This is feature splitting, and it never ends: each further atom lowers the loss.

# %%
circle = circle_feature(POINTS, 10, seed=0, even=True)
plane = circle.dictionary[:2]
figure, axes = plt.subplots(1, len(POLYGONS), figsize=(2.3 * len(POLYGONS), 2.9), layout="constrained", sharey=True)
costs = []
for axis, M in zip(axes, POLYGONS, strict=True):
    learned = learn_dictionary(circle.X, M, 0.01, bias=None, stationarity=1e-4)
    corners = learned.dictionary @ plane.T
    order = np.argsort(np.arctan2(corners[:, 1], corners[:, 0]))
    turn = np.linspace(0, 2 * np.pi, 200)
    axis.plot(np.cos(turn), np.sin(turn), color="0.7")
    axis.plot(*corners[np.append(order, order[0])].T, "o-", color="C1", markersize=4)
    axis.set(aspect="equal", title=f"{M} atoms", xlabel="first coordinate", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    costs.append(learned.value / learned.lam)
    gaps = np.diff(np.append(np.sort(np.arctan2(corners[:, 1], corners[:, 0])), np.nan))[:-1]
    assert np.abs(gaps - 2 * np.pi / M).max() < 0.1, "the corners are nearly even"
axes[0].set_ylabel("second coordinate")
figure.suptitle("gray: the feature; orange: the best dictionary found", fontsize="medium")
plt.show()
print("loss / λ:", ", ".join(f"{cost:.4f} with {M} atoms" for M, cost in zip(POLYGONS, costs, strict=True)))
assert (np.diff(costs) < 0).all()

# %% [markdown]
# ## A dense feature with two signs becomes a pair of opposite atoms
#
# Codes cannot be negative.
# A feature that takes both signs on many datapoints, such as a position or a sentiment, therefore needs two atoms that point in opposite directions.
# Here one such feature, with a normal distribution, lies beside eight sparse features.

# %%
dense = dense_signed_feature(1000, 20, seed=0, levels=None, n_sparse=8)
ten = learn_dictionary(dense.X, 10, LAM, stationarity=1e-3)
report = check_optimality(dense.X, ten, new_atoms=0, splits=False)
report.antipodes.round(3)

# %%
cosines = ten.dictionary @ ten.dictionary.T
figure, axes = plt.subplots(figsize=(4.6, 3.8), layout="constrained")
image = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
figure.colorbar(image, label="cosine of two atoms")
axes.set(xlabel="atom", ylabel="atom", title="ten atoms: one opposite pair")
plt.show()
assert len(report.antipodes) == 1 and report.antipodes["cosine"].iloc[0] < -0.99
assert report.antipodes["cofiring"].iloc[0] == 0, "the two never fire together"

# %% [markdown]
# ## What to take from this
#
# - Absorption, splitting and opposite pairs occur at the optimum of the loss.
#   A better encoder or longer training cannot remove them.
# - Whether a feature keeps an atom of its own depends on how often it fires alone.
# - Other losses have other optima, and each has to be judged by its own optimum.
#
# [Phenomena at the optimum](../phenomena.md) has larger versions of these experiments, with noise, hierarchies and real embeddings.

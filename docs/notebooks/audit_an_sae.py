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
# # Audit an SAE
#
# This notebook examines a trained sparse autoencoder (SAE): what causes its loss, how it compares at other sparsities, which optimality conditions its dictionary violates, and which of its features a better dictionary also has.
# [The quickstart](quickstart.ipynb) covers the first question in ten minutes, and this notebook covers all of them.
#
# The data are token embeddings of a language model, so that features can be read as lists of words.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cvxsae import audit, certify, encode, match, train_sae
from cvxsae.data import center_and_scale, wordllama, wordllama_tokens

plt.style.use("tableau-colorblind10")

# %% tags=["parameters"]
LAM = 0.08  # penalty
N_ATOMS = 64  # width of the SAE
ROWS = 8000  # tokens that train it, and as many others for the audit
STEPS = 150  # training steps: few, so that there is something to find
STATIONARITY = 0.01  # how far the search for a better dictionary goes
MAX_WORDS = 8  # words shown for a feature

# %%
raw = wordllama()
X = center_and_scale(raw).apply(raw)
order = np.random.default_rng(0).permutation(len(X))
trained_on, others = np.sort(order[:ROWS]), np.sort(order[ROWS : 2 * ROWS])
sae = train_sae(X[trained_on], N_ATOMS, LAM, steps=STEPS, batch_size=512, seed=0)
print(sae)

# %% [markdown]
# ## The ledger: what causes the loss
#
# An audit learns a better dictionary on three quarters of the tokens, and all its numbers are about the last quarter, which is held out.
# The lines of the ledger add up to the loss of the SAE.
#
# | line | meaning |
# |---|---|
# | amortization gap | the loss of the encoder against the best codes for the same dictionary |
# | dictionary gap | the loss of the dictionary against a better one that was found |
# | local gap | the distance from the better dictionary to the floor of this width: no other dictionary of this width could gain more |
# | width gap | what only a wider dictionary could gain |
# | floor of any width | no dictionary gets below this number |
# | memorization | what the better dictionary gains only on the tokens it was learned on; it is not part of the sum |

# %%
found = audit(X[others], sae, stationarity=STATIONARITY, metrics=True, frontier=True, diagnostics=True)
print(found.sentences[0])

# %%
ledger = found.ledger
ledger.table()[["line", "amount", "share", "low", "high"]].round(4)

# %%
lines = ledger.table().set_index("line")["amount"]
parts = lines.drop("memorization")
assert abs(parts.sum() - ledger.loss) < 1e-9, "the lines add up to the loss"
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
bars = axes.barh(parts.index, parts, color=["C0", "C0", "C1", "C1", "C2"][: len(parts)])
axes.bar_label(bars, [f"{value:.4f}" for value in parts], padding=3)
axes.invert_yaxis()
axes.margins(x=0.15)
axes.set(xlabel="part of the loss, mean per token held out")
axes.set_title("blue: known; orange: open; gray: nothing can gain it", fontsize="medium")
plt.show()

# %% [markdown]
# The columns `low` and `high` are 95 % intervals for the distribution that the tokens are drawn from.
# If the interval of the dictionary gap contains zero, the audit says "none shown".
#
# ### What certifies these numbers
#
# Exact codes come with a lower bound for every token.
# The referee, `certify`, recomputes values and bounds in double precision from the tokens and the arrays alone.

# %%
exact = encode(X[others], sae.dictionary, LAM, bias=sae.b_dec, tol=1e-6)
certificate = certify(exact)
print(certificate)
assert certificate.is_certified

# %% [markdown]
# ## The frontier: error against sparsity
#
# Each λ gives one point.
# The frontier compares the SAE with exact codes of its own dictionary at other λ, with the best codes found for a fixed number of active atoms (`k-sparse`), and with the better dictionary.
# "Refitted" means that the active codes are fitted again without the penalty, which removes the shrinkage of L1.

# %%
curves = {
    "exact": "exact codes",
    "exact, refitted": "exact codes, refitted",
    "learned": "better dictionary",
    "k-sparse": "k-sparse codes",
}
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, label), marker in zip(curves.items(), "os^D", strict=True):
    points = sorted(found.frontier.curve(name), key=lambda point: point.l0)
    axes.plot([point.l0 for point in points], [point.fvu for point in points], marker=marker, label=label)
(own,) = found.frontier.curve("encoder")
axes.plot(own.l0, own.fvu, "*", color="black", markersize=14, label="the SAE")
axes.set(xlabel="active atoms per token (L0)", ylabel="share of variance unexplained (FVU)", xscale="log")
axes.legend(frameon=False)
plt.show()
short = found.frontier.least_suboptimality
print(
    f"with no more atoms on any token, other codes of the same dictionary have at least {short:.1%} less squared error"
)

# %% [markdown]
# At a given L0, lower is better.
# The curve of k-sparse codes is below that of exact codes, because the L1 penalty shrinks exact codes.
#
# ## The metrics of the field
#
# The same metrics are computed for the SAE's own codes, for exact codes, and for exact codes refitted.

# %%
print(found.metrics)

# %% [markdown]
# ## What any optimum must satisfy
#
# At an optimum every atom is in balance: the mean residual over its tokens, weighted by its activations, is λ times the atom (T3 in [the theory](../theory.md)).
# The distance from this balance is the *stationarity* residual, in units of λ.
# It is zero at an optimum, and one if the imbalance is as large as the penalty itself.

# %%
report = found.diagnostics
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
axes[0].hist(report.features["stationarity"], bins=20, color="C0")
axes[0].set(xlabel="stationarity of a feature (units of λ)", ylabel="features")
axes[1].plot(100 * report.features["density"], report.features["stationarity"], "o", color="C1", markersize=4)
axes[1].set(xlabel="tokens on which it is active (percent)", ylabel="stationarity (units of λ)")
plt.show()
print(*report.objections, sep="\n")
report.worst_features(5)[["count", "stationarity", "at_least"]].round(3)

# %% [markdown]
# The column `at_least` is the part of the imbalance that is certain despite the small number of tokens, and features are ranked by it.
# If it is negative, the imbalance may be due to chance.
#
# ## Which features does a better dictionary also have?
#
# A search that started from the SAE's own dictionary found the audit's better dictionary, `ledger.dictionary`.
# `match` pairs the atoms of the two dictionaries so that the sum of cosines is largest, and compares the dictionaries on data.
# The tokens here are those of the audit; the better dictionary has seen three quarters of them.

# %%
pairing = match(sae, (ledger.dictionary, ledger.decoder_bias), X[others], LAM, points=3)
print(pairing)

# %%
tokens = wordllama_tokens()


def words(atoms, which):
    """The tokens with the largest products with an atom."""
    best = np.argsort(-(X[others].to_numpy() @ atoms[which]))[:MAX_WORDS]
    return ", ".join(tokens[row].strip("▁") for row in others[best])


cosines = pd.Series({(a, b): sae.dictionary[a] @ ledger.dictionary[b] for a, b in pairing.pairs}).sort_values()
for (a, b), cosine in [*cosines.head(2).items(), *cosines.tail(2).items()]:
    print(f"cosine {cosine:.2f}")
    print("   SAE:   ", words(sae.dictionary, a))
    print("   better:", words(ledger.dictionary, b))

# %% [markdown]
# The first two pairs are the features that changed most, and the last two are those that changed least.
#
# ## What to take from this
#
# - The first sentence of an audit says what to change first, and the ledger says how much that could gain.
# - Numbers about held-out tokens are exact for those tokens; intervals are about the distribution.
# - The "better dictionary" is the best one found, and a still better one may exist; the local gap bounds how much better it could be.
#
# Next, read [How wide should it be?](how_wide.ipynb)

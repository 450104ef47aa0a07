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
# # How wide should it be?
#
# A wider dictionary always has a lower loss on the activations that it was fitted to.
# Three questions are more useful:
#
# 1. Does the wider dictionary have a lower loss on *unseen* activations?
# 2. How far is it from the best dictionary of its width, *for the distribution* of activations?
# 3. If atoms had a price, how many atoms would be worth it?
#
# The data are 32,000 token embeddings of a language model, centered and scaled to unit mean-square norm.
# They come with a wheel, so nothing is downloaded.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cvxsae import grow, learn_dictionary, width_floor
from cvxsae.data import center_and_scale, wordllama
from cvxsae.population import PopulationDictionary, evaluate, population_floor, population_gap, solve_population

plt.style.use("tableau-colorblind10")

# %% tags=["parameters"]
LAM = 0.08  # penalty: about ten active atoms per token
LEARNED, HELD_OUT = 4000, 8000  # tokens that dictionaries are learned on, and others
WIDTHS = (16, 32, 64, 128)  # numbers of atoms
BATCH = 2000  # tokens in a batch of the population floor
PRICES = (0.5, 0.2, 0.1)  # prices of an atom, as shares of tokens
PRICED = 1000  # tokens that dictionaries with prices are learned on
STATIONARITY = 0.02  # how far each search goes

# %%
raw = wordllama()
X = center_and_scale(raw).apply(raw)
order = np.random.default_rng(0).permutation(len(X))
seen, held_out = X[np.sort(order[:LEARNED])], X[np.sort(order[LEARNED : LEARNED + HELD_OUT])]

# %% [markdown]
# ## Does a wider dictionary pay off on unseen tokens?
#
# We learn a dictionary of the smallest width and let it grow.
# The loss is the mean of `½‖x − b − z D‖² + λ Σ z` with exact codes, so no encoder is involved.
# `evaluate` gives the loss on held-out tokens with a confidence interval for the distribution.

# %%
fits, rows = [], []
for width in WIDTHS:
    if fits:
        fit = grow(fits[-1], width, stationarity=STATIONARITY)
    else:
        fit = learn_dictionary(seen, width, LAM, stationarity=STATIONARITY)
    fits.append(fit)
    elsewhere = evaluate(held_out, fit.dictionary, LAM, bias=fit.bias)
    rows.append(
        {
            "atoms": width,
            "learned on": fit.value,
            "held out": elsewhere.value,
            "low": elsewhere.mean.low,
            "high": elsewhere.mean.high,
            "memorized": elsewhere.value - fit.value,
        }
    )
table = pd.DataFrame(rows)
table.round(4)

# %% [markdown]
# On the training tokens, the loss falls quickly with the width.
# On held-out tokens it falls more slowly.
# Apart from chance, the difference is what the dictionary has memorized, and it grows with the width.
#
# ## What no dictionary can reach
#
# For the tokens at hand, `width_floor` proves a number that no dictionary of a given width can get below, whatever its atoms and its bias.
# For the distribution, `population_floor` turns such proofs on independent batches into a lower limit with a confidence.
# The reason is simple: on a batch, the best dictionary for that batch is at least as good as the best dictionary for the distribution.
# So on average, floors of batches are too low for the distribution, never too high.

# %%
floors = width_floor(seen, WIDTHS, LAM)
table["floor, these tokens"] = [floor.value for floor in floors]
wide = population_floor(held_out, None, LAM, batch=BATCH)
print(wide)

# %% [markdown]
# The last paragraph holds for every width: no dictionary of any number of atoms has an expected loss below that limit.
#
# `population_gap` puts both sides together for one dictionary.
# It bounds how much any other dictionary of the same width could gain on the distribution.

# %%
place = len(WIDTHS) // 2
gap = population_gap(held_out, fits[place], batch=BATCH)
print(gap)
assert gap.gap > 0 and gap.is_certified

# %%
figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
errors = [table["held out"] - table["low"], table["high"] - table["held out"]]
axes.errorbar(table["atoms"], table["held out"], errors, fmt="o-", capsize=4, label="held-out tokens, 95 % interval")
axes.plot(table["atoms"], table["learned on"], "s--", label="tokens learned on")
axes.plot(table["atoms"], table["floor, these tokens"], "^:", label="floor of the width, tokens learned on")
axes.axhline(wide.lower_limit, color="0.4", linewidth=1, label="floor of any width, distribution, 95 %")
axes.set_xscale("log", base=2)
axes.set_xticks(table["atoms"], [str(width) for width in table["atoms"]])
axes.minorticks_off()
axes.set_ylim(0, None)
axes.set(xlabel="number of atoms", ylabel="loss, mean per token")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
plt.show()
assert (table["floor, these tokens"] <= table["learned on"]).all()
assert table["memorized"].iloc[-1] > table["memorized"].iloc[0]

# %% [markdown]
# There is a wide gap between the floor and the dictionaries.
# The floor of a width is a proof and not a target: with many more atoms than dimensions it is known to be low.
# The difference between two dictionaries on the same held-out tokens can be tested directly.

# %%
values = [evaluate(held_out, fit.dictionary, LAM, bias=fit.bias).values for fit in fits]
steps = []
for narrow, wider in zip(range(len(WIDTHS) - 1), range(1, len(WIDTHS)), strict=True):
    gain = values[narrow] - values[wider]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    steps.append({"from": WIDTHS[narrow], "to": WIDTHS[wider], "gain": gain.mean(), "standard error": error})
steps = pd.DataFrame(steps)
steps["gain per added atom"] = steps["gain"] / (steps["to"] - steps["from"])
steps.round(6)

# %% [markdown]
# A step pays if its gain is several standard errors above zero.
# The gain per added atom falls from step to step, which leads to the third question.
#
# ## What if an atom had a price?
#
# In the large-dictionary problem, the price of an atom depends on the share of tokens that use it.
# The price `τ̄` is itself a share of tokens: an atom used by exactly this share costs 1.41 times its L1 penalty, and rarer atoms cost more.
# The number of atoms is then an outcome, not a choice.

# %%
rows = []
for price in PRICES:
    priced = solve_population(seen[np.arange(PRICED)], PopulationDictionary(LAM, price), tol=1e-2)
    rows.append(
        {
            "price τ̄": price,
            "atoms": priced.n_atoms,
            "value with prices": priced.value,
            "smallest share of tokens": priced.shares.min(),
            "largest": priced.shares.max(),
        }
    )
prices = pd.DataFrame(rows)
prices.round(4)

# %%
figure, axes = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
axes.plot(100 * prices["price τ̄"], prices["atoms"], "o-")
axes.set_xscale("log")
axes.set_xticks(100 * prices["price τ̄"], [f"{100 * price:g}" for price in prices["price τ̄"]])
axes.minorticks_off()
axes.set(xlabel="price of an atom τ̄ (percent of tokens)", ylabel="number of atoms")
axes.set_ylim(0, None)
plt.show()
assert prices["atoms"].is_monotonic_increasing, "cheaper atoms, more of them"

# %% [markdown]
# ## What to take from this
#
# - Compare widths on held-out activations, with intervals.
#   On the training activations, wider always looks better.
# - A population gap bounds how much a dictionary of the same width could still gain.
#   Larger batches make it smaller, at a cost that grows quickly.
# - If you can say what an atom should cost, the large dictionary says how many atoms are worth it.
#   On a sample as small as this one, the number may be far from that for the distribution.
#
# [From the rows at hand to the distribution](../population.md) has the theory and larger sizes, and [The large dictionary](../large_dictionary.md) has the problem with priced atoms.

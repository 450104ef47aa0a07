"""Convex penalties of the codes of one datapoint: group, tree, exclusive, sorted, simplex, and prefix losses."""

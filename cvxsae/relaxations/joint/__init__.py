"""The joint problem over dictionary, codes and bias, and what must hold at its optima."""

"""The joint problem over dictionary, codes and bias, and the conditions at its optima."""

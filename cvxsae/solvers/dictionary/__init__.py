"""The search for the joint optimum of dictionary, bias and codes."""

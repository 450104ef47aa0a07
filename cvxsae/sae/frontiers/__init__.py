"""FVU against L0: an SAE, its dictionary, and others of its width."""

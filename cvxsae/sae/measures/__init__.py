"""What the field measures of an SAE, with intervals."""

"""From rows to the distribution they were drawn from: estimates with intervals that name their method and unit."""

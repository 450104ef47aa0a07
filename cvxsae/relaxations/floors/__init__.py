"""Lower bounds that hold for every dictionary of a given width."""

"""Where the loss of an SAE goes, what to change first, and the page that says so."""

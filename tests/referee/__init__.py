"""An independent referee: plain numpy and whole numbers, nothing of the package, and problems drawn to break it."""

"""Images inside archives: where their bytes are, and reading them in place."""

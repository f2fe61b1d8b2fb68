"""Models of other frameworks: reading them, and writing ours for them."""

"""The devices that a run computes on, for each Keras backend."""

"""From batches to a trained, evaluated model."""

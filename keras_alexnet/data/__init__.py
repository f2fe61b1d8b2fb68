"""From image folders to batches of pixels."""

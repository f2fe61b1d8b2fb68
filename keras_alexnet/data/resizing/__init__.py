"""Smaller copies of the images, as files, in a tar, or decoded."""

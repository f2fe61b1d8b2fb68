"""Evaluation reports: the numbers, the pictures and the page."""

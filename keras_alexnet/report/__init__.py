"""Reports on a trained network: the figures, the plots and the page."""

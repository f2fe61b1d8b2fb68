"""Finding the images of a data set, and their labels: folder trees, archives, the official archives of ILSVRC2012."""

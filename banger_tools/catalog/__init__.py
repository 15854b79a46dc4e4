"""Names of images: the catalogs that list them, what a name stands for on this host, and bundles, finished images."""

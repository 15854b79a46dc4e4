"""Container images: references, the places they come from, and the cache of verified blobs and layers."""

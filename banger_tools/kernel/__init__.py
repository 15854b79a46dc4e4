"""Kernels: taken from a package, understood, and given an initrd of ours; the store keeps what is made here."""

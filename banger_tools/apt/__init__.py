"""Root filesystems made of Debian packages, by the host's own apt set-up."""

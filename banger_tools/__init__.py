"""banger: OCI images, tars and Debian packages into bootable microVM disks, one small program a stage."""

__version__ = "0.1.0"

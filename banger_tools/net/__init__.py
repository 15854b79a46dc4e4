"""Networks of the host for machines: a bridge of our own, taps with an address each, and a table of nftables."""

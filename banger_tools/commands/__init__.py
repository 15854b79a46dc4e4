"""The commands of `banger`, one module each; each runs the programs of the suite and imports none."""

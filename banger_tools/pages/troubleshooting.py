r"""banger-troubleshooting: what goes wrong, and what to do

See also:
  banger(1)
"""

"""Virtual machines: what one is made of, the monitors that run it, and its life from start to end.

A monitor is one module with the functions of `interface.Monitor`; nothing else knows how it is started or reached.
"""

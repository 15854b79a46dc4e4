"""ext4 without mounting: the on-disk structures, a reader, an editor of inodes, and a writer.

Names are those of the format (Linux kernel documentation, "ext4 Data Structures and Algorithms").
"""

"""Where the metadata of an ext4 filesystem stands: groups, copies of the superblock, tables of descriptors."""

from __future__ import annotations

from banger_tools.ext4.structures import SUPERBLOCK_OFFSET, Superblock


class Geometry:
    """The numbers that follow from a superblock; blocks and groups count from zero as in the format."""

    def __init__(self, superblock: Superblock) -> None:
        self.superblock = superblock
        self.block_size = superblock.block_size
        self.blocks = superblock.s_blocks_count
        self.first_block = superblock.s_first_data_block
        self.blocks_per_group = superblock.s_blocks_per_group
        self.inodes_per_group = superblock.s_inodes_per_group
        self.inode_size = superblock.s_inode_size if superblock.s_rev_level else 128
        # how often the size of a block is doubled in what is allocated at once (bigalloc)
        cluster_bits = superblock.s_log_cluster_size - superblock.s_log_block_size
        self.cluster_bits = cluster_bits if superblock.has("bigalloc") else 0
        self.groups = -(-(self.blocks - self.first_block) // self.blocks_per_group)
        self.desc_size = (superblock.s_desc_size or 64) if superblock.has("64bit") else 32
        self.descs_per_block = self.block_size // self.desc_size
        self.table_blocks = -(-self.groups // self.descs_per_block)
        self.inode_table_blocks = -(-self.inodes_per_group * self.inode_size // self.block_size)

    def group_start(self, group: int) -> int:
        """Return the first block of a group."""
        return self.first_block + group * self.blocks_per_group

    def group_blocks(self, group: int) -> int:
        """Return how many blocks a group has; the last may be short."""
        return min(self.blocks_per_group, self.blocks - self.group_start(group))

    def has_super(self, group: int) -> bool:
        """Tell whether a group begins with a copy of the superblock."""
        if group == 0 or not self.superblock.has("sparse_super"):
            return True
        return group == 1 or any(_is_power(group, base) for base in (3, 5, 7))

    def descriptor_block(self, table_block: int) -> int:
        """Return the block that holds one block of the primary table of group descriptors."""
        first_meta = self.superblock.s_first_meta_bg
        # Not always first_block: with bigalloc and blocks of 1 KiB, group 0 begins one block before the superblock.
        super_block = SUPERBLOCK_OFFSET // self.block_size
        if not self.superblock.has("meta_bg") or table_block < first_meta or table_block == 0:
            return super_block + 1 + table_block
        group = table_block * self.descs_per_block
        return self.group_start(group) + self.has_super(group)

    def descriptor_place(self, group: int) -> int:
        """Return the byte offset of a group's primary descriptor."""
        index, number = divmod(group, self.descs_per_block)
        return self.descriptor_block(index) * self.block_size + number * self.desc_size

    def bitmap_bit(self, block: int) -> tuple[int, int]:
        """Return the group of a block, and the bit of that group's bitmap that says whether it is taken."""
        group, index = divmod(block - self.first_block, self.blocks_per_group)
        return group, index >> self.cluster_bits

    def base_metadata(self, group: int) -> int:
        """Return how many blocks at the start of a group hold a superblock, descriptors and room for more of these.

        meta_bg filesystems are not meant: the writer never makes them.
        """
        if not self.has_super(group):
            return 0
        return 1 + self.table_blocks + self.superblock.s_reserved_gdt_blocks


def _is_power(number: int, base: int) -> bool:
    while number > 1 and number % base == 0:
        number //= base
    return number == 1

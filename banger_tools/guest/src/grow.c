/* A filesystem as large as its disk, which the host may have made larger while the machine was off. */
#include "grow.h"

#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

/* The superblock of ext4, and what we read of it; everything is little-endian. */
#define SUPERBLOCK 1024
#define BLOCKS_LOW 0x04
#define LOG_BLOCK_SIZE 0x18
#define MAGIC 0x38
#define INCOMPAT 0x60
#define BLOCKS_HIGH 0x150
#define INCOMPAT_64BIT 0x80
#define EXT4_MAGIC 0xef53
#define LOG_LIMIT 6 /* blocks of 64 KiB */

static uint32_t number(const unsigned char *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* How many blocks the filesystem has, and how many its disk has room for. */
static bool measure(const char *device, uint64_t *have, uint64_t *room)
{
	unsigned char head[1024];
	uint64_t bytes = 0;
	uint32_t shift;
	int fd = open(device, O_RDONLY | O_CLOEXEC);
	bool read = fd >= 0 && pread(fd, head, sizeof head, SUPERBLOCK) == sizeof head &&
		    ioctl(fd, BLKGETSIZE64, &bytes) == 0;

	if (fd >= 0)
		close(fd);
	if (!read || (number(head + MAGIC) & 0xffff) != EXT4_MAGIC || number(head + LOG_BLOCK_SIZE) > LOG_LIMIT)
		return false;
	shift = 10 + number(head + LOG_BLOCK_SIZE);
	*have = number(head + BLOCKS_LOW);
	if (number(head + INCOMPAT) & INCOMPAT_64BIT)
		*have |= (uint64_t)number(head + BLOCKS_HIGH) << 32;
	*room = bytes >> shift;
	return true;
}

void grow(const char *device, const char *place)
{
	uint64_t have, room;
	int fd;

	if (!measure(device, &have, &room) || room <= have)
		return;
	fd = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, EXT4_IOC_RESIZE_FS, &room) < 0)
		say_errno("cannot grow the filesystem on '%s'", device);
	if (fd >= 0)
		close(fd);
}

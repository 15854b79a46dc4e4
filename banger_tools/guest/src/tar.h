/* Tar headers (POSIX.1-2001 pax, with what GNU adds), one at a time, as bytes in memory. */
#ifndef BANGER_TAR_H
#define BANGER_TAR_H

#include "guest.h"

#include <limits.h>
#include <sys/types.h>

#define TAR_BLOCK 512
#define TAR_EXTENSION_LIMIT (64 * 1024) /* of a pax header or a long name */

struct tar_entry {
	char path[PATH_MAX];
	char target[PATH_MAX];
	char type; /* '0' file, '1' hard link, '2' symlink, '3' char, '4' block, '5' folder, '6' fifo, 'x' 'g' 'L' 'K' */
	mode_t mode;
	uint32_t uid, gid;
	int64_t size;
	int64_t mtime;
	uint32_t major, minor;
};

/* Does the block consist of zeros (two of them end an archive)? */
bool tar_is_end(const unsigned char *block);

/* Read a header block; false when its checksum or a number is wrong. */
bool tar_parse(const unsigned char *block, struct tar_entry *entry);

/* What the extension entries before an entry said of it. */
struct tar_overrides {
	char path[PATH_MAX];
	char target[PATH_MAX];
	bool has_path, has_target, has_size, has_uid, has_gid, has_mtime;
	int64_t size, uid, gid, mtime;
};

/* Take the records of a pax header; false when they are malformed or say what we must not ignore. */
bool tar_take_pax(struct tar_overrides *overrides, const char *records, size_t length);
void tar_apply(const struct tar_overrides *overrides, struct tar_entry *entry);

/* The header blocks of an entry, with a pax header before it where ustar cannot hold it; their length. */
size_t tar_format(const struct tar_entry *entry, unsigned char *blocks, size_t size);

#endif

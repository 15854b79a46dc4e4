/* Tar headers (POSIX.1-2001 pax, with what GNU adds), one at a time, as bytes in memory. */
#ifndef BANGER_TAR_H
#define BANGER_TAR_H

#include "guest.h"
#include "text.h"

#include <limits.h>
#include <sys/types.h>

#define TAR_BLOCK 512
#define TAR_EXTENSION_LIMIT (1024 * 1024) /* of a pax header: extended attributes have up to 64 KiB each */
#define TAR_XATTR "SCHILY.xattr." /* before the name of an extended attribute, in GNU tar, bsdtar and OCI layers */

struct tar_entry {
	char path[PATH_MAX];
	char target[PATH_MAX];
	char type; /* '0' file, '1' hard link, '2' symlink, '3' char, '4' block, '5' folder, '6' fifo, 'x' 'g' 'L' 'K' */
	mode_t mode;
	uint32_t uid, gid;
	int64_t size;
	int64_t mtime;
	uint32_t major, minor;
	const char *xattrs; /* pax records by tar_put_xattr, to be written; a reader finds them with tar_next_xattr */
	size_t xattrs_length;
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

/* One extended attribute of a pax header; its name is decoded, its value stays where it is. */
struct tar_xattr {
	char name[256];
	const char *value;
	size_t length;
};

/* The next attribute among the records of a pax header that tar_take_pax took; false when there is none left. */
bool tar_next_xattr(const char **records, size_t *length, struct tar_xattr *xattr);

/* Add an attribute to the records that an entry is to be written with. */
void tar_put_xattr(struct text *records, const char *name, const char *value, size_t length);

/* The header blocks of an entry, with a pax header before it where ustar cannot hold it; their length, or 0. */
size_t tar_format(const struct tar_entry *entry, unsigned char *blocks, size_t size);

#endif

#include "xattrs.h"

#include "tar.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

#define LIST_LIMIT 65536  /* XATTR_LIST_MAX */
#define VALUE_LIMIT 65536 /* XATTR_SIZE_MAX */

/*
 * A name for an entry of an open folder that the calls for paths take: those for descriptors cannot reach a link
 * or a device without opening it.
 */
static bool name_entry(int folder, const char *name, char *path, size_t size)
{
	int length = folder == AT_FDCWD ? snprintf(path, size, "%s", name)
					: snprintf(path, size, "/proc/self/fd/%d/%s", folder, name);

	errno = ENAMETOOLONG;
	return length > 0 && (size_t)length < size;
}

static bool is_kept(const char *name)
{
	static const char *const kinds[] = { "user.", "security.", "trusted.", "system.posix_acl_" };

	for (size_t i = 0; i < LENGTH(kinds); i++) {
		if (strncmp(name, kinds[i], strlen(kinds[i])) == 0)
			return true;
	}
	return false;
}

static bool collect_one(const char *path, const char *name, struct text *records)
{
	static char value[VALUE_LIMIT];
	ssize_t length = lgetxattr(path, name, value, sizeof value);

	if (length < 0)
		return errno == ENODATA; /* it went away since it was listed */
	tar_put_xattr(records, name, value, (size_t)length);
	errno = E2BIG;
	return !records->overflow;
}

bool xattrs_collect(int folder, const char *name, struct text *records)
{
	static char list[LIST_LIMIT];
	char path[PATH_MAX + 64];
	ssize_t length;

	if (!name_entry(folder, name, path, sizeof path))
		return false;
	length = llistxattr(path, list, sizeof list);
	if (length < 0)
		return errno == ENOTSUP || errno == ENOENT; /* none there can be, or it went away */
	for (const char *at = list; at < list + length; at += strlen(at) + 1) {
		if (is_kept(at) && !collect_one(path, at, records))
			return false;
	}
	return true;
}

bool xattrs_restore(int folder, const char *name, const char *records, size_t length, char *failed, size_t size)
{
	struct tar_xattr xattr;
	char path[PATH_MAX + 64];

	if (!name_entry(folder, name, path, sizeof path))
		return snprintf(failed, size, "path"), false;
	/* what a new entry inherited from its folder would let people in whom the archive does not name */
	lremovexattr(path, "system.posix_acl_access");
	lremovexattr(path, "system.posix_acl_default");
	while (tar_next_xattr(&records, &length, &xattr)) {
		if (lsetxattr(path, xattr.name, xattr.value, xattr.length, 0) == 0)
			continue;
		snprintf(failed, size, "%s", xattr.name);
		return false;
	}
	return true;
}

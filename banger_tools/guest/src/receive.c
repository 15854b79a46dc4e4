/* PUT /files?path=FOLDER: a tar stream, unpacked below the folder with its owners and modes. */
#include "agent.h"

#include "file.h"
#include "tar.h"
#include "transfer.h"
#include "xattrs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/openat2.h>

struct receiver {
	struct connection *connection;
	int base;
	char error[512]; /* the first thing that went wrong */
	int status;      /* the answer that it gets */
	struct tar_overrides overrides;
	const char *pax; /* the records before the entry, for its attributes */
	size_t pax_length;
	struct tar_entry entry;
	char parent[PATH_MAX], name[PATH_MAX];
	int64_t entries;
};

int open_below(int folder, const char *path, int flags)
{
	struct open_how how = { .flags = (unsigned)flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };

	return (int)syscall(SYS_openat2, folder, *path ? path : ".", &how, sizeof how);
}

static bool climbs(const char *path)
{
	for (const char *at = path; at; at = strchr(at, '/')) {
		at += *at == '/';
		if (at[0] == '.' && at[1] == '.' && (at[2] == '/' || at[2] == '\0'))
			return true;
	}
	return false;
}

bool split_path(const char *path, char *parent, char *name, size_t size)
{
	const char *slash;
	size_t length;

	while (*path == '/' || (path[0] == '.' && path[1] == '/'))
		path++;
	length = strlen(path);
	while (length > 0 && path[length - 1] == '/')
		length--;
	if (length >= size || climbs(path))
		return false;
	memcpy(name, path, length);
	name[length] = '\0';
	if (strcmp(name, ".") == 0)
		name[0] = '\0';
	slash = strrchr(name, '/');
	length = slash ? (size_t)(slash - name) : 0;
	memcpy(parent, name, length);
	parent[length] = '\0';
	if (slash)
		memmove(name, slash + 1, strlen(slash + 1) + 1);
	return true;
}

static bool fail(struct receiver *receiver, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool fail(struct receiver *receiver, const char *format, ...)
{
	va_list values;

	va_start(values, format);
	if (!receiver->error[0])
		vsnprintf(receiver->error, sizeof receiver->error, format, values);
	va_end(values);
	return false;
}

/* What the guest cannot do is another answer than what is wrong with the archive. */
static int status_of(int error)
{
	switch (error) {
	case ENOSPC:
	case EDQUOT:
		return 507;
	case EROFS:
	case EACCES:
	case EPERM:
		return 403;
	case ENOSYS:
		return 501; /* openat2 */
	default:
		return 400;
	}
}

static bool fail_entry(struct receiver *receiver, const char *what)
{
	if (!receiver->error[0])
		receiver->status = status_of(errno);
	return fail(receiver, "cannot %s '%.256s': %s", what, receiver->entry.path, strerror(errno));
}

/* Exactly `length` bytes of the archive. */
static bool read_exactly(struct receiver *receiver, void *bytes, size_t length)
{
	char *to = bytes;

	while (length > 0) {
		ssize_t got = http_read_body(receiver->connection, to, length);

		if (got <= 0)
			return fail(receiver, "the archive ends early");
		to += got;
		length -= (size_t)got;
	}
	return true;
}

static int64_t padding(int64_t size)
{
	return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

static bool skip(struct receiver *receiver, int64_t length)
{
	char bytes[4096];

	while (length > 0) {
		size_t part = length > (int64_t)sizeof bytes ? sizeof bytes : (size_t)length;

		if (!read_exactly(receiver, bytes, part))
			return false;
		length -= (int64_t)part;
	}
	return true;
}

/* Open a folder below the base, making what is missing of it. */
static int open_folder(struct receiver *receiver, const char *path)
{
	char part[PATH_MAX], parent[PATH_MAX], name[PATH_MAX];
	int fd = open_below(receiver->base, path, O_RDONLY | O_DIRECTORY);

	for (size_t i = 1; fd < 0 && errno == ENOENT && i <= strlen(path); i++) {
		int above;

		if (path[i] != '/' && path[i] != '\0')
			continue;
		snprintf(part, sizeof part, "%.*s", (int)i, path);
		split_path(part, parent, name, sizeof part);
		above = open_below(receiver->base, parent, O_RDONLY | O_DIRECTORY);
		if (above < 0)
			return -1;
		mkdirat(above, name, 0755);
		close(above);
		if (path[i] == '\0')
			return open_below(receiver->base, path, O_RDONLY | O_DIRECTORY);
		errno = ENOENT;
	}
	return fd;
}

static bool copy_data(struct receiver *receiver, int fd)
{
	static char bytes[COPY_SIZE];

	for (int64_t left = receiver->entry.size; left > 0;) {
		size_t part = left > COPY_SIZE ? COPY_SIZE : (size_t)left;

		if (!read_exactly(receiver, bytes, part))
			return false;
		if (write_fully(fd, bytes, part) < 0)
			return fail_entry(receiver, "write");
		left -= (int64_t)part;
	}
	return skip(receiver, padding(receiver->entry.size));
}

/* After the owner, whose change drops capabilities, and after the mode, which an ACL says more exactly. */
static bool put_xattrs(struct receiver *receiver, int folder, const char *name)
{
	char failed[256], what[300];

	if (xattrs_restore(folder, name, receiver->pax, receiver->pax_length, failed, sizeof failed))
		return true;
	snprintf(what, sizeof what, "set the attribute '%s' of", failed);
	return fail_entry(receiver, what);
}

static bool put_file(struct receiver *receiver, int folder)
{
	const struct tar_entry *entry = &receiver->entry;
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = entry->mtime } };
	int fd = openat(folder, receiver->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	bool good;

	if (fd < 0)
		return fail_entry(receiver, "create");
	good = copy_data(receiver, fd);
	/* the owner first: changing it drops setuid bits */
	if (good && (fchown(fd, entry->uid, entry->gid) < 0 || fchmod(fd, entry->mode) < 0))
		good = fail_entry(receiver, "set the owner of");
	good = good && put_xattrs(receiver, folder, receiver->name);
	futimens(fd, times);
	if (close(fd) < 0 && good)
		good = fail_entry(receiver, "write");
	return good;
}

static bool put_folder(struct receiver *receiver)
{
	const struct tar_entry *entry = &receiver->entry;
	char path[2 * PATH_MAX];
	int fd;
	bool good;

	snprintf(path, sizeof path, "%s%s%s", receiver->parent, receiver->parent[0] ? "/" : "", receiver->name);
	if (strlen(path) >= PATH_MAX)
		return fail(receiver, "a path is too long");
	fd = open_folder(receiver, path);
	if (fd < 0)
		return fail_entry(receiver, "make folder");
	if (!path[0])
		good = true; /* "." is the folder that the caller named: it stays as it is */
	else if (fchown(fd, entry->uid, entry->gid) < 0 || fchmod(fd, entry->mode) < 0)
		good = fail_entry(receiver, "set the owner of");
	else
		good = put_xattrs(receiver, fd, ".");
	close(fd);
	return good;
}

static bool put_link(struct receiver *receiver, int folder)
{
	char parent[PATH_MAX], name[PATH_MAX];
	int source;
	bool good;

	if (!split_path(receiver->entry.target, parent, name, sizeof name) || !name[0])
		return fail(receiver, "a hard link to '%.256s' leads out of the folder", receiver->entry.target);
	source = open_below(receiver->base, parent, O_RDONLY | O_DIRECTORY);
	good = source >= 0 && linkat(source, name, folder, receiver->name, 0) == 0;
	if (source >= 0)
		close(source);
	return good || fail_entry(receiver, "link");
}

static bool put_special(struct receiver *receiver, int folder)
{
	const struct tar_entry *entry = &receiver->entry;
	mode_t kind = entry->type == '3' ? S_IFCHR : entry->type == '4' ? S_IFBLK : S_IFIFO;

	if (mknodat(folder, receiver->name, kind | 0600, makedev(entry->major, entry->minor)) < 0)
		return fail_entry(receiver, "create");
	if (fchownat(folder, receiver->name, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(folder, receiver->name, entry->mode, 0) < 0)
		return fail_entry(receiver, "set the owner of");
	return true;
}

static bool put_symlink(struct receiver *receiver, int folder)
{
	const struct tar_entry *entry = &receiver->entry;

	if (symlinkat(entry->target, folder, receiver->name) < 0)
		return fail_entry(receiver, "create");
	if (fchownat(folder, receiver->name, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return fail_entry(receiver, "set the owner of");
	return true;
}

static bool put_in_folder(struct receiver *receiver, int folder)
{
	if (unlinkat(folder, receiver->name, 0) < 0 && errno != ENOENT)
		return fail_entry(receiver, "replace");
	switch (receiver->entry.type) {
	case '0':
		return put_file(receiver, folder);
	case '1':
		return put_link(receiver, folder);
	case '2':
		return put_symlink(receiver, folder) && put_xattrs(receiver, folder, receiver->name);
	case '3':
	case '4':
	case '6':
		return put_special(receiver, folder) && put_xattrs(receiver, folder, receiver->name);
	default:
		return fail(receiver, "'%.256s' is of an unknown type '%c'", receiver->entry.path, receiver->entry.type);
	}
}

static bool put_by_type(struct receiver *receiver)
{
	int folder;
	bool good;

	if (receiver->entry.type != '0' && receiver->entry.size > 0)
		return fail(receiver, "'%.256s' has data but is no file", receiver->entry.path);
	if (!split_path(receiver->entry.path, receiver->parent, receiver->name, sizeof receiver->name))
		return fail(receiver, "'%.256s' leads out of the folder", receiver->entry.path);
	if (receiver->entry.type == '5')
		return put_folder(receiver);
	if (!receiver->name[0])
		return fail(receiver, "an entry has no name");
	folder = open_folder(receiver, receiver->parent);
	if (folder < 0)
		return fail_entry(receiver, "make the folder of");
	good = put_in_folder(receiver, folder);
	close(folder);
	return good;
}

static bool put_entry(struct receiver *receiver)
{
	bool good;

	tar_apply(&receiver->overrides, &receiver->entry);
	receiver->entries++;
	good = put_by_type(receiver);
	memset(&receiver->overrides, 0, sizeof receiver->overrides);
	receiver->pax_length = 0;
	return good;
}

/* GNU's long names: 'L' of the entry itself, 'K' of what it links to. */
static bool take_long_name(struct receiver *receiver, size_t size)
{
	struct tar_overrides *overrides = &receiver->overrides;
	char *name = receiver->entry.type == 'L' ? overrides->path : overrides->target;

	if (size > PATH_MAX)
		return fail(receiver, "a name is too long");
	*(receiver->entry.type == 'L' ? &overrides->has_path : &overrides->has_target) = true;
	if (!read_exactly(receiver, name, size))
		return false;
	name[size < PATH_MAX ? size : PATH_MAX - 1] = '\0';
	return true;
}

/* Entries that say something of the next one; those of type 'g' are comments of git and the like. */
static bool take_extension(struct receiver *receiver)
{
	static char records[TAR_EXTENSION_LIMIT];
	int64_t size = receiver->entry.size;
	char type = receiver->entry.type;

	if (size > TAR_EXTENSION_LIMIT)
		return fail(receiver, "an extended header is too large");
	if (type == 'g')
		return skip(receiver, size + padding(size));
	if (type != 'x')
		return take_long_name(receiver, (size_t)size) && skip(receiver, padding(size));
	if (!read_exactly(receiver, records, (size_t)size) || !skip(receiver, padding(size)))
		return false;
	receiver->pax = records;
	receiver->pax_length = (size_t)size;
	return tar_take_pax(&receiver->overrides, records, (size_t)size) ||
	       fail(receiver, "an extended header is malformed");
}

static bool receive_archive(struct receiver *receiver)
{
	unsigned char block[TAR_BLOCK];

	for (;;) {
		if (!read_exactly(receiver, block, sizeof block))
			return false;
		if (tar_is_end(block))
			return true;
		if (!tar_parse(block, &receiver->entry))
			return fail(receiver, "a header of the archive is damaged");
		if (strchr("xgLK", receiver->entry.type) ? !take_extension(receiver) : !put_entry(receiver))
			return false;
	}
}

/* Whatever is left of the body is read, or the client could not read our answer. */
static void drain(struct connection *connection)
{
	char bytes[4096];

	while (http_read_body(connection, bytes, sizeof bytes) > 0)
		continue;
}

static int open_base(const char *path)
{
	make_folders(path, 0755);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void answer_put_files(struct connection *connection, const struct request *request)
{
	struct receiver *receiver = calloc(1, sizeof *receiver);
	char path[PATH_MAX], answer[64];

	if (!receiver || !http_query(request, "path", path, sizeof path) || path[0] != '/') {
		drain(connection);
		http_refuse(connection, 400, "'path' must name a folder from the root on");
		free(receiver);
		return;
	}
	receiver->connection = connection;
	receiver->status = 400;
	receiver->base = open_base(path);
	umask(0);
	if (receiver->base < 0) {
		receiver->status = status_of(errno);
		fail(receiver, "cannot open folder '%.256s': %s", path, strerror(errno));
	} else {
		receive_archive(receiver);
	}
	drain(connection);
	if (receiver->base >= 0)
		close(receiver->base);
	if (receiver->error[0])
		http_refuse(connection, receiver->status, "%s", receiver->error);
	else
		http_answer(connection, 200, answer,
			    (size_t)snprintf(answer, sizeof answer, "{\"entries\": %lld}\n", (long long)receiver->entries));
	free(receiver);
}

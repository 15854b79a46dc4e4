/* GET /files?path=PATH: one file or a whole folder as a tar stream. */
#include "agent.h"

#include "console.h"
#include "links.h"
#include "tar.h"
#include "transfer.h"
#include "xattrs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct sender {
	struct connection *connection;
	struct tar_entry entry;
	struct links links;
	dev_t device; /* a tree is not followed into /proc and the like */
};

static char type_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return '0';
	case S_IFLNK:
		return '2';
	case S_IFCHR:
		return '3';
	case S_IFBLK:
		return '4';
	case S_IFDIR:
		return '5';
	case S_IFIFO:
		return '6';
	default:
		return '\0'; /* sockets are nothing without their process */
	}
}

static void describe(struct tar_entry *entry, const struct stat *status)
{
	entry->type = type_of(status->st_mode);
	entry->mode = status->st_mode & 07777;
	entry->uid = status->st_uid;
	entry->gid = status->st_gid;
	entry->size = S_ISREG(status->st_mode) ? status->st_size : 0;
	entry->mtime = status->st_mtime;
	entry->major = major(status->st_rdev);
	entry->minor = minor(status->st_rdev);
	entry->target[0] = '\0';
}

/* The entry's header with the attributes of what lies there; of a folder that is open, under the name ".". */
static bool send_header(struct sender *sender, int folder, const char *name)
{
	static char storage[TAR_EXTENSION_LIMIT - 4 * PATH_MAX];
	static unsigned char blocks[TAR_EXTENSION_LIMIT];
	struct text records = TEXT_IN(storage);
	size_t length;

	if (!xattrs_collect(folder, name, &records))
		return false;
	sender->entry.xattrs = records.bytes;
	sender->entry.xattrs_length = records.length;
	length = tar_format(&sender->entry, blocks, sizeof blocks);
	return length > 0 && http_stream(sender->connection, (const char *)blocks, length);
}

/* As many bytes as the header said, whatever happens to the file meanwhile. */
static bool send_data(struct sender *sender, int fd)
{
	static char bytes[COPY_SIZE];
	int64_t left = sender->entry.size;

	while (left > 0) {
		size_t part = left > COPY_SIZE ? COPY_SIZE : (size_t)left;
		ssize_t got = read(fd, bytes, part);

		if (got < 0)
			return false;
		if (got == 0) {
			memset(bytes, 0, part); /* it became shorter */
			got = (ssize_t)part;
		}
		if (!http_stream(sender->connection, bytes, (size_t)got))
			return false;
		left -= got;
	}
	memset(bytes, 0, TAR_BLOCK);
	return http_stream(sender->connection, bytes,
			   (size_t)((TAR_BLOCK - sender->entry.size % TAR_BLOCK) % TAR_BLOCK));
}

static bool send_file(struct sender *sender, int folder, const char *name)
{
	int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	bool good;

	if (fd < 0)
		return errno == ENOENT; /* it went away since it was looked at */
	good = send_header(sender, folder, name) && send_data(sender, fd);
	close(fd);
	return good;
}

static bool send_entry(struct sender *sender, int folder, const char *name);

static bool send_children(struct sender *sender, DIR *stream)
{
	size_t length = strlen(sender->entry.path);

	for (struct dirent *item; (item = readdir(stream));) {
		if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
			continue;
		if (length + strlen(item->d_name) + 2 > sizeof sender->entry.path)
			return errno = ENAMETOOLONG, false;
		sender->entry.path[length] = '/';
		strcpy(sender->entry.path + length + 1, item->d_name);
		if (!send_entry(sender, dirfd(stream), item->d_name))
			return false;
		sender->entry.path[length] = '\0';
	}
	return true;
}

static bool send_folder(struct sender *sender, int folder, const char *name)
{
	int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	bool good;

	if (!stream) {
		if (fd >= 0)
			close(fd);
		return errno == ENOENT;
	}
	good = send_header(sender, fd, ".") && send_children(sender, stream);
	closedir(stream);
	return good;
}

static bool send_symlink(struct sender *sender, int folder, const char *name)
{
	ssize_t length = readlinkat(folder, name, sender->entry.target, sizeof sender->entry.target - 1);

	if (length < 0)
		return errno == ENOENT;
	sender->entry.target[length] = '\0';
	return send_header(sender, folder, name);
}

/* A file that was sent under another name before: the name alone. */
static bool send_link(struct sender *sender, const char *first)
{
	static unsigned char blocks[8 * PATH_MAX];
	struct tar_entry *entry = &sender->entry;
	size_t length;

	entry->type = '1';
	entry->size = 0;
	entry->xattrs_length = 0;
	strcpy(entry->target, first);
	length = tar_format(entry, blocks, sizeof blocks);
	return length > 0 && http_stream(sender->connection, (const char *)blocks, length);
}

static bool send_by_type(struct sender *sender, int folder, const char *name)
{
	switch (sender->entry.type) {
	case '0':
		return send_file(sender, folder, name);
	case '2':
		return send_symlink(sender, folder, name);
	case '5':
		return send_folder(sender, folder, name);
	default:
		return send_header(sender, folder, name);
	}
}

static bool send_entry(struct sender *sender, int folder, const char *name)
{
	struct stat status;
	const char *first;

	if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT; /* it went away between the two looks */
	describe(&sender->entry, &status);
	/* what is mounted there; the files of an overlay are on other devices than its folders, and belong to it */
	if (S_ISDIR(status.st_mode) && status.st_dev != sender->device)
		return send_header(sender, folder, name);
	if (sender->entry.type == '\0')
		return true;
	if (S_ISDIR(status.st_mode) || status.st_nlink < 2)
		return send_by_type(sender, folder, name);
	first = links_find(&sender->links, &status);
	if (first)
		return send_link(sender, first);
	if (!send_by_type(sender, folder, name))
		return false;
	links_add(&sender->links, &status, sender->entry.path);
	return true;
}

static void send_archive(struct sender *sender, const char *path)
{
	static const char end[2 * TAR_BLOCK];

	/* a stream without its last chunk is how the client learns that it is not whole */
	if (!http_start_stream(sender->connection, "application/x-tar") || !send_entry(sender, AT_FDCWD, path) ||
	    !http_stream(sender->connection, end, sizeof end) || !http_end_stream(sender->connection)) {
		say_errno("cannot send '%s', at '%s'", path, sender->entry.path);
		sender->connection->closing = true;
	}
}

void answer_get_files(struct connection *connection, const struct request *request)
{
	struct sender *sender = calloc(1, sizeof *sender);
	char path[PATH_MAX], copy[PATH_MAX];
	struct stat status;

	if (!sender || !http_query(request, "path", path, sizeof path) || path[0] != '/') {
		http_refuse(connection, 400, "'path' must name a file or folder from the root on");
	} else if (lstat(path, &status) < 0) {
		http_refuse(connection, errno == ENOENT ? 404 : 403, "cannot read '%s': %s", path, strerror(errno));
	} else {
		strcpy(copy, path);
		sender->connection = connection;
		sender->device = status.st_dev;
		strcpy(sender->entry.path, strcmp(path, "/") == 0 ? "." : basename(copy));
		send_archive(sender, path);
		links_free(&sender->links);
	}
	free(sender);
}

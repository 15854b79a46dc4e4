/*
 * Makes the disk fail for one program: LD_PRELOAD this, and calls on files below $FAULT_FOLDER fail with the error of
 * the number $FAULT_ERRNO. $FAULT_KIND says which: "write" (and all that changes a file), "read", or "sync".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(int fd, const char *kind)
{
	const char *folder = getenv("FAULT_FOLDER"), *wanted = getenv("FAULT_KIND");
	char link[64], path[4096];
	ssize_t length;
	int saved = errno;

	if (!folder || !wanted || strcmp(kind, wanted))
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	errno = saved;
	if (length <= 0)
		return 0;
	path[length] = 0;
	if (strncmp(path, folder, strlen(folder)))
		return 0;
	errno = atoi(getenv("FAULT_ERRNO"));
	return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(kind, type, name, parameters, arguments) \
	type name parameters \
	{ \
		if (fails(fd, kind)) \
			return -1; \
		return REAL(name) arguments; \
	}

FAULTY("write", ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
FAULTY("write", ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
FAULTY("write", ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
FAULTY("write", ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
FAULTY("write", ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
FAULTY("write", ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))
FAULTY("write", ssize_t, pwritev2, (int fd, const struct iovec *parts, int count, off_t at, int flags),
       (fd, parts, count, at, flags))
FAULTY("write", ssize_t, pwritev64v2, (int fd, const struct iovec *parts, int count, off64_t at, int flags),
       (fd, parts, count, at, flags))
FAULTY("sync", int, fsync, (int fd), (fd))
FAULTY("sync", int, fdatasync, (int fd), (fd))
FAULTY("read", ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))
FAULTY("read", ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
FAULTY("read", ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))

ssize_t copy_file_range(int in, off64_t *from, int fd, off64_t *to, size_t size, unsigned int flags)
{
	if (fails(fd, "write") || fails(in, "read"))
		return -1;
	return REAL(copy_file_range)(in, from, fd, to, size, flags);
}

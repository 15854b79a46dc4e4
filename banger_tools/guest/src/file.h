/* Reading and writing whole files and streams, with a bound on everything. */
#ifndef BANGER_FILE_H
#define BANGER_FILE_H

#include "guest.h"

#include <sys/types.h>

/* Read at most size - 1 bytes of a file and end them with NUL; -1 with errno, else the number of bytes. */
ssize_t file_read(const char *path, char *storage, size_t size);

/* The first line of a file, without its newline; false when it cannot be read. */
bool file_read_line(const char *path, char *storage, size_t size);

/* Create or replace a file; -1 with errno. */
int file_write(const char *path, const char *bytes, size_t length, mode_t mode);

/* All bytes, whatever signals and short writes come between; -1 with errno. */
int write_fully(int fd, const void *bytes, size_t length);

/* mkdir -p; an existing folder is fine. -1 with errno. */
int make_folders(const char *path, mode_t mode);

/* Set or clear O_NONBLOCK. */
void set_blocking(int fd, bool blocking);

/* Milliseconds of the monotonic clock. */
int64_t now_ms(void);
void sleep_ms(int64_t ms);

#endif

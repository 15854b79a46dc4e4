/* The first name of every file that has several: what an archive needs to send each file once. */
#ifndef BANGER_LINKS_H
#define BANGER_LINKS_H

#include "guest.h"

#include <sys/stat.h>

struct links {
	struct link *slots; /* by device and inode number; a slot without a path is free */
	size_t count, size;
};

/* The path that a file was remembered with, or NULL. */
const char *links_find(const struct links *links, const struct stat *file);

/* Remember a path. Without memory it is not: the file is then sent again, which costs room and loses nothing else. */
void links_add(struct links *links, const struct stat *file, const char *path);

void links_free(struct links *links);

#endif

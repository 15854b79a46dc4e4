/* The first name of every file that has several: what an archive needs to send each file once. */
#ifndef BANGER_LINKS_H
#define BANGER_LINKS_H

#include "guest.h"

struct links {
	struct link *slots; /* by inode number; a slot without a path is free */
	size_t count, size;
};

/* The path that an inode was remembered with, or NULL. */
const char *links_find(const struct links *links, uint64_t inode);

/* Remember a path. Without memory it is not: the file is then sent again, which costs room and loses nothing else. */
void links_add(struct links *links, uint64_t inode, const char *path);

void links_free(struct links *links);

#endif

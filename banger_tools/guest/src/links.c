#include "links.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_SIZE 256 /* a power of two, as every size */

struct link {
	dev_t device; /* the files of one overlay are on several */
	ino_t inode;
	char *path;
};

/* The slot of a file: its own, or the free one where it belongs. */
static struct link *slot_of(struct link *slots, size_t size, dev_t device, ino_t inode)
{
	size_t at = (size_t)((inode + device) * 0x9e3779b97f4a7c15u >> 32) & (size - 1);

	while (slots[at].path && (slots[at].inode != inode || slots[at].device != device))
		at = (at + 1) & (size - 1);
	return &slots[at];
}

const char *links_find(const struct links *links, const struct stat *file)
{
	return links->size ? slot_of(links->slots, links->size, file->st_dev, file->st_ino)->path : NULL;
}

/* At most half of the slots are ever taken. */
static bool grow(struct links *links)
{
	size_t size = links->size ? 2 * links->size : FIRST_SIZE;
	struct link *slots;

	if (2 * (links->count + 1) <= links->size)
		return true;
	slots = calloc(size, sizeof *slots);
	if (!slots)
		return false;
	for (size_t i = 0; i < links->size; i++) {
		const struct link *old = &links->slots[i];

		if (old->path)
			*slot_of(slots, size, old->device, old->inode) = *old;
	}
	free(links->slots);
	links->slots = slots;
	links->size = size;
	return true;
}

void links_add(struct links *links, const struct stat *file, const char *path)
{
	char *copy = strdup(path);

	if (!copy || !grow(links)) {
		free(copy);
		return;
	}
	*slot_of(links->slots, links->size, file->st_dev, file->st_ino) = (struct link){ file->st_dev, file->st_ino, copy };
	links->count++;
}

void links_free(struct links *links)
{
	for (size_t i = 0; i < links->size; i++)
		free(links->slots[i].path);
	free(links->slots);
}

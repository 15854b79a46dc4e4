/* The state that both directions of /files share. */
#ifndef BANGER_TRANSFER_H
#define BANGER_TRANSFER_H

#include "guest.h"

#define COPY_SIZE 65536

/*
 * Open a path of an archive below a folder as if the folder were the root (openat2, Linux 5.6): no link and
 * no ".." leads out of it.
 */
int open_below(int folder, const char *path, int flags);

/* Split a path of an archive into its folder and last name, without "/" and "./" at its front. */
bool split_path(const char *path, char *parent, char *name, size_t size);

#endif

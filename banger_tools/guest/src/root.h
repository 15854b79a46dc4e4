/* The filesystems: the kernel's own, the root disk, the work disk, and the switch from the initrd to the root. */
#ifndef BANGER_ROOT_H
#define BANGER_ROOT_H

#include "config.h"

/* /proc, /sys, /dev and /run on our own root, where they are not there yet. */
void mount_early(void);

/* Are we in the initrd (a root in memory), and not on the disk itself? */
bool in_initrd(void);

/* Mount the root disk of the config, and make it "/". False, after a message, when that cannot be. */
bool switch_to_root(const struct config *config);

/* The kernel mounted the root itself: make it writable, or lay an overlay over it. */
void prepare_mounted_root(const struct config *config);

void mount_work(const struct config *config);

/* What programs expect beyond the early ones: /dev/pts, /dev/shm and, where it is empty, /tmp. */
void mount_late(bool with_tmp);

#endif

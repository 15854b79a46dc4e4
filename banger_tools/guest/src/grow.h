#ifndef BANGER_GROW_H
#define BANGER_GROW_H

#include "guest.h"

/*
 * Let the ext4 of a disk, mounted writable on `place`, fill its disk. The kernel's journal makes that one step: cut
 * short, it is grown or it is not. No message where there is nothing to grow, or no ext4.
 */
void grow(const char *device, const char *place);

#endif

/* Kernel modules that our initrd brings. */
#ifndef BANGER_MODULES_H
#define BANGER_MODULES_H

/* Load each file named in a list, one path a line in load order; failures are told and passed over. */
void modules_load(const char *list);

#endif

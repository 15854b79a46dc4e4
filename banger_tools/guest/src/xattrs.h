/* Extended attributes, capabilities and ACLs among them, as the records of a pax header. */
#ifndef BANGER_XATTRS_H
#define BANGER_XATTRS_H

#include "guest.h"
#include "text.h"

/*
 * Add those of an entry of an open folder ("." is the folder itself); a link is not followed. False with errno.
 * Only what the kernel keeps for everybody: user, security, trusted and POSIX ACLs.
 */
bool xattrs_collect(int folder, const char *name, struct text *records);

/* Set those of the records, and no ACL but theirs; false with errno, and the attribute's name in `failed`. */
bool xattrs_restore(int folder, const char *name, const char *records, size_t length, char *failed, size_t size);

#endif

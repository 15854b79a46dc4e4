/* Users and groups of the image, read from its own /etc/passwd and /etc/group without any name service. */
#ifndef BANGER_ACCOUNTS_H
#define BANGER_ACCOUNTS_H

#include "guest.h"

#include <sys/types.h>

#define GROUPS_LIMIT 64

struct account {
	uid_t uid;
	gid_t gid;
	gid_t groups[GROUPS_LIMIT];
	size_t group_count;
	char name[64];
	char home[256];
};

/*
 * Resolve "", "name", "uid", "name:group", "uid:gid" and their mixtures as the OCI image spec describes User
 * ("" is root; a number that is in no passwd gets group 0 and home /). False with a sentence in `why`.
 */
bool account_find(const char *spec, struct account *account, char *why, size_t why_size);

#endif

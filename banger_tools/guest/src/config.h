/*
 * The guest config: what the host wants of this machine, as JSON on a small raw disk.
 * The host's side of it is described in banger_tools/guest/__init__.py.
 */
#ifndef BANGER_CONFIG_H
#define BANGER_CONFIG_H

#include "guest.h"

#define DNS_LIMIT 3 /* what resolv.conf(5) reads */
#define TOKEN_LIMIT 129

enum init_choice { INIT_AUTO, INIT_IMAGE, INIT_BANGER };

struct config {
	char hostname[65];
	char root[128];
	char root_type[16];
	char work[128]; /* empty: none */
	bool read_only;
	bool grow; /* filesystems follow their disks when these were made larger */
	char address[64]; /* "a.b.c.d/bits"; empty: no network */
	char gateway[48];
	char dns[DNS_LIMIT][48];
	size_t dns_count;
	int64_t time; /* seconds since 1970; 0: unknown */
	enum init_choice init;
	bool run;
	bool reboot; /* end with a reset, which is how Firecracker ends, instead of power off */
	char **argv;
	char **env;
	char user[128];
	char cwd[256];
	char **ssh_keys;
	char git_name[256]; /* empty: none */
	char git_email[256];
	char token[TOKEN_LIMIT]; /* what a client of the agent has to say first; empty: nothing */
};

void config_defaults(struct config *config);

/* Fill in what a text says; what has a wrong type is named on the console and keeps its default. */
bool config_parse(struct config *config, const char *text, size_t length);

/*
 * Find the config disk among /dev/vd?, waiting a moment for the devices. The text ends at its last byte that
 * is no newline; it is to be freed. NULL when there is none.
 */
char *config_from_disk(size_t *length);

/* The same from a file; NULL with errno. */
char *config_from_file(const char *path, size_t *length);

/* Write config.json and network.env into /run/banger below a root ("" for our own). */
bool config_store(const struct config *config, const char *root, const char *text, size_t length);

#endif

#include "accounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PASSWD_FIELDS 7
#define GROUP_FIELDS 4
#define LINE_LIMIT 65536

/* A decimal id below 2^32 - 1 (which the kernel keeps for "none"). */
static bool parse_id(const char *text, uint32_t *id)
{
	unsigned long long value;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (*end || errno || value >= UINT32_MAX)
		return false;
	*id = (uint32_t)value;
	return true;
}

/* Cut a line at its colons, in place; false when it has fewer fields than wanted. */
static bool split_fields(char *line, char **fields, size_t wanted)
{
	for (size_t i = 0; i < wanted; i++) {
		fields[i] = line;
		line = strchr(line, ':');
		if (!line)
			return i == wanted - 1;
		if (i < wanted - 1)
			*line++ = '\0';
	}
	return true;
}

/* The next line without its newline; lines longer than the buffer are passed over. */
static bool next_line(FILE *file, char *line, int size)
{
	while (fgets(line, size, file)) {
		size_t length = strlen(line);

		if (length > 0 && line[length - 1] == '\n') {
			line[length - 1] = '\0';
			return true;
		}
		if (feof(file))
			return true;
		for (int c = getc(file); c != '\n' && c != EOF;)
			c = getc(file);
	}
	return false;
}

/* Visit the lines of a table until `visit` says true. */
static bool scan_table(const char *path, size_t fields, bool (*visit)(char **, void *), void *context)
{
	FILE *file = fopen(path, "re");
	char *line = malloc(LINE_LIMIT), *parts[PASSWD_FIELDS];
	bool found = false;

	while (file && line && !found && next_line(file, line, LINE_LIMIT))
		found = split_fields(line, parts, fields) && visit(parts, context);
	free(line);
	if (file)
		fclose(file);
	return found;
}

struct user_query {
	const char *name;
	bool numeric; /* then it is never a name, as in container runtimes */
	uint32_t uid;
	struct account *account;
};

static bool visit_user(char **fields, void *context)
{
	struct user_query *query = context;
	uint32_t uid, gid;

	if (!parse_id(fields[2], &uid) || !parse_id(fields[3], &gid))
		return false;
	if (query->numeric ? uid != query->uid : strcmp(fields[0], query->name) != 0)
		return false;
	query->account->uid = uid;
	query->account->gid = gid;
	snprintf(query->account->name, sizeof query->account->name, "%s", fields[0]);
	snprintf(query->account->home, sizeof query->account->home, "%s", fields[5]);
	return true;
}

struct group_query {
	const char *name;
	gid_t gid;
};

static bool visit_group(char **fields, void *context)
{
	struct group_query *query = context;

	return strcmp(fields[0], query->name) == 0 && parse_id(fields[2], &query->gid);
}

static bool lists_member(char *members, const char *name)
{
	for (char *next; members; members = next) {
		next = strchr(members, ',');
		if (next)
			*next++ = '\0';
		if (strcmp(members, name) == 0)
			return true;
	}
	return false;
}

static bool visit_membership(char **fields, void *context)
{
	struct account *account = context;
	uint32_t gid;

	if (account->group_count < GROUPS_LIMIT && parse_id(fields[2], &gid) && lists_member(fields[3], account->name))
		account->groups[account->group_count++] = gid;
	return false;
}

static bool find_user(const char *name, struct account *account)
{
	struct user_query query = { .name = name, .account = account };

	query.numeric = parse_id(name, &query.uid);
	if (scan_table("/etc/passwd", PASSWD_FIELDS, visit_user, &query))
		return true;
	if (query.numeric)
		account->uid = query.uid;
	return query.numeric || strcmp(name, "root") == 0; /* an image without /etc/passwd still has its root */
}

static bool find_group(const char *name, struct account *account)
{
	struct group_query query = { .name = name };

	if (!parse_id(name, &query.gid) && !scan_table("/etc/group", GROUP_FIELDS, visit_group, &query))
		return false;
	account->gid = query.gid;
	return true;
}

/* Login and container runtimes list the first group among the others, too: a set-gid program must not lose it. */
static void add_own_group(struct account *account)
{
	if (account->group_count < GROUPS_LIMIT)
		account->groups[account->group_count++] = account->gid;
}

bool account_find(const char *spec, struct account *account, char *why, size_t why_size)
{
	char user[sizeof account->name];
	const char *group = strchr(spec, ':');
	int length = group ? (int)(group - spec) : (int)strlen(spec);

	memset(account, 0, sizeof *account);
	strcpy(account->home, "/");
	if (length >= (int)sizeof user) {
		snprintf(why, why_size, "user '%s' is too long", spec);
		return false;
	}
	snprintf(user, sizeof user, "%.*s", length, spec);
	if (!find_user(length > 0 ? user : "0", account)) {
		snprintf(why, why_size, "no user '%s' in the image's /etc/passwd", user);
		return false;
	}
	if (group && group[1]) { /* a group that was asked for takes the place of the memberships */
		if (!find_group(group + 1, account)) {
			snprintf(why, why_size, "no group '%s' in the image's /etc/group", group + 1);
			return false;
		}
	} else if (account->name[0]) {
		scan_table("/etc/group", GROUP_FIELDS, visit_membership, account);
	}
	add_own_group(account);
	return true;
}

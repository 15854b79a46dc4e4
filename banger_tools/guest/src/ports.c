/* GET /ports: who listens, from /proc/net and the descriptors of all processes; no `ss` needed. */
#include "agent.h"

#include "file.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SOCKETS_LIMIT 1024
#define TCP_LISTEN 0x0a
#define UDP_UNCONNECTED 0x07

struct listening {
	const char *protocol;
	char address[INET6_ADDRSTRLEN];
	unsigned port;
	unsigned long inode;
	int pid; /* 0: not found */
};

struct table {
	struct listening *items;
	size_t count;
};

/* The kernel prints an address as 32-bit words in its own byte order, which is how we read them back. */
static bool parse_address(const char *hex, char *address)
{
	unsigned char bytes[16];
	size_t words = strlen(hex) / 8;

	if (strlen(hex) != 8 && strlen(hex) != 32)
		return false;
	for (size_t i = 0; i < words; i++) {
		char word[9] = "";
		uint32_t value;

		memcpy(word, hex + 8 * i, 8);
		value = (uint32_t)strtoul(word, NULL, 16);
		memcpy(bytes + 4 * i, &value, 4);
	}
	return inet_ntop(words == 1 ? AF_INET : AF_INET6, bytes, address, INET6_ADDRSTRLEN) != NULL;
}

static void take_line(struct table *table, const char *line, const char *protocol)
{
	struct listening *item = &table->items[table->count];
	unsigned state, wanted = protocol[0] == 't' ? TCP_LISTEN : UDP_UNCONNECTED;
	char local[40];

	if (sscanf(line, " %*d: %39[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*s %*s %lu", local, &item->port, &state,
		   &item->inode) != 4)
		return;
	if (state != wanted || !parse_address(local, item->address))
		return;
	item->protocol = protocol;
	item->pid = 0;
	table->count++;
}

static void read_table(struct table *table, const char *protocol)
{
	char path[64], line[512];
	FILE *file;

	snprintf(path, sizeof path, "/proc/net/%s", protocol);
	file = fopen(path, "re");
	while (file && table->count < SOCKETS_LIMIT && fgets(line, sizeof line, file))
		take_line(table, line, protocol);
	if (file)
		fclose(file);
}

static void claim(struct table *table, const char *target, int pid)
{
	unsigned long inode;

	if (sscanf(target, "socket:[%lu]", &inode) != 1)
		return;
	for (size_t i = 0; i < table->count; i++) {
		if (table->items[i].inode == inode && table->items[i].pid == 0)
			table->items[i].pid = pid;
	}
}

static void claim_process(struct table *table, const char *pid)
{
	char path[64], target[64];
	DIR *folder;

	snprintf(path, sizeof path, "/proc/%.16s/fd", pid);
	folder = opendir(path);
	for (struct dirent *entry; folder && (entry = readdir(folder));) {
		ssize_t length = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);

		if (length <= 0)
			continue;
		target[length] = '\0';
		claim(table, target, atoi(pid));
	}
	if (folder)
		closedir(folder);
}

static void find_owners(struct table *table)
{
	DIR *folder = opendir("/proc");

	for (struct dirent *entry; folder && (entry = readdir(folder));) {
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
			claim_process(table, entry->d_name);
	}
	if (folder)
		closedir(folder);
}

static void put_item(struct text *text, const struct listening *item)
{
	char path[64], program[64] = "";

	text_format(text, "{\"protocol\": \"%.3s\", \"address\": ", item->protocol);
	text_json(text, item->address);
	text_format(text, ", \"port\": %u", item->port);
	snprintf(path, sizeof path, "/proc/%d/comm", item->pid);
	if (item->pid > 0 && file_read_line(path, program, sizeof program)) {
		text_format(text, ", \"pid\": %d, \"program\": ", item->pid);
		text_json(text, program);
	}
	text_put(text, "}");
}

void answer_ports(struct connection *connection)
{
	static const char *const protocols[] = { "tcp", "tcp6", "udp", "udp6" };
	static struct listening items[SOCKETS_LIMIT];
	static char body[256 * SOCKETS_LIMIT];
	struct table table = { items, 0 };
	struct text text = TEXT_IN(body);

	for (size_t i = 0; i < LENGTH(protocols); i++)
		read_table(&table, protocols[i]);
	find_owners(&table);
	text_put(&text, "{\"ports\": [");
	for (size_t i = 0; i < table.count; i++) {
		text_put(&text, i ? ", " : "");
		put_item(&text, &table.items[i]);
	}
	text_put(&text, "]}\n");
	http_answer(connection, 200, body, text.length);
}

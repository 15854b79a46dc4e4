/* GET /stats: memory, load and disks, all from /proc and statvfs. */
#include "agent.h"

#include "file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DISKS_LIMIT 32

static void put_memory(struct text *text)
{
	char table[8192];
	static const char *const names[] = { "MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree" };
	static const char *const keys[] = { "total", "free", "available", "swap_total", "swap_free" };
	const char *separator = "";

	text_put(text, "\"memory\": {");
	if (file_read("/proc/meminfo", table, sizeof table) > 0) {
		for (size_t i = 0; i < LENGTH(names); i++) {
			const char *line = strstr(table, names[i]);

			if (!line)
				continue;
			text_format(text, "%s\"%s\": %llu", separator, keys[i],
				    strtoull(line + strlen(names[i]) + 1, NULL, 10) * 1024);
			separator = ", ";
		}
	}
	text_put(text, "}");
}

static void put_load(struct text *text)
{
	char line[128];
	double load[3] = { 0 };

	if (file_read_line("/proc/loadavg", line, sizeof line))
		sscanf(line, "%lf %lf %lf", &load[0], &load[1], &load[2]);
	text_format(text, "\"load\": [%.2f, %.2f, %.2f], \"cpus\": %ld", load[0], load[1], load[2],
		    sysconf(_SC_NPROCESSORS_ONLN));
}

/* /proc/mounts writes spaces and the like as \ooo. */
static void unescape_octal(char *path)
{
	char *to = path;

	for (const char *from = path; *from; to++) {
		unsigned value;

		if (*from == '\\' && sscanf(from + 1, "%3o", &value) == 1) {
			*to = (char)value;
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

static bool put_disk(struct text *text, const char *device, char *path, const char *type, const char *separator)
{
	struct statvfs status;

	unescape_octal(path);
	if (statvfs(path, &status) < 0 || status.f_blocks == 0)
		return false;
	text_format(text, "%s{\"path\": ", separator);
	text_json(text, path);
	text_put(text, ", \"device\": ");
	text_json(text, device);
	text_put(text, ", \"type\": ");
	text_json(text, type);
	text_format(text, ", \"size\": %llu, \"free\": %llu, \"available\": %llu, \"inodes\": %llu, \"inodes_free\": %llu}",
		    (unsigned long long)status.f_blocks * status.f_frsize,
		    (unsigned long long)status.f_bfree * status.f_frsize,
		    (unsigned long long)status.f_bavail * status.f_frsize, (unsigned long long)status.f_files,
		    (unsigned long long)status.f_ffree);
	return true;
}

/* Filesystems on disks, and the root whatever it is. */
static void put_disks(struct text *text)
{
	FILE *file = fopen("/proc/self/mounts", "re");
	char line[2048], device[512], path[1024], type[64];
	const char *separator = "";
	int disks = 0;

	text_put(text, "\"disks\": [");
	while (file && disks < DISKS_LIMIT && fgets(line, sizeof line, file)) {
		if (sscanf(line, "%511s %1023s %63s", device, path, type) != 3)
			continue;
		if (strncmp(device, "/dev/", 5) != 0 && strcmp(path, "/") != 0)
			continue;
		if (put_disk(text, device, path, type, separator)) {
			separator = ", ";
			disks++;
		}
	}
	if (file)
		fclose(file);
	text_put(text, "]");
}

void answer_stats(struct connection *connection)
{
	static char body[128 * 1024];
	struct text text = TEXT_IN(body);

	text_put(&text, "{");
	put_memory(&text);
	text_put(&text, ", ");
	put_load(&text);
	text_put(&text, ", ");
	put_disks(&text);
	text_put(&text, "}\n");
	if (text.overflow)
		http_refuse(connection, 503, "too much to tell");
	else
		http_answer(connection, 200, body, text.length);
}

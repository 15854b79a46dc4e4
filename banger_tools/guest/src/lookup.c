/* How names become addresses: /etc/hosts and the resolver, kept at each start as container runtimes keep them. */
#include "init.h"

#include "console.h"
#include "file.h"
#include "text.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOSTS "/etc/hosts"
#define HOSTS_LIMIT 262144
#define OURS "\t# this machine"
#define LOCALHOST "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
#define RESOLVER "/etc/resolv.conf"
#define RESOLVED_FOLDER "/run/systemd/resolved.conf.d"
#define RESOLVED_FILE RESOLVED_FOLDER "/banger.conf"

/* Does a line "address name name # comment" have this name? */
static bool line_names(const char *line, const char *name)
{
	const char *end = line + strcspn(line, "#\n"), *at = line + strspn(line, " \t");

	at += strcspn(at, " \t#\n");
	while ((at += strspn(at, " \t")) < end) {
		size_t length = strcspn(at, " \t#\n");

		if (length == strlen(name) && strncasecmp(at, name, length) == 0)
			return true;
		at += length;
	}
	return false;
}

static const char *next_line(const char *line)
{
	line += strcspn(line, "\n");
	return *line ? line + 1 : line;
}

static bool names_host(const char *hosts, const char *name)
{
	for (const char *line = hosts; *line; line = next_line(line)) {
		if (line_names(line, name))
			return true;
	}
	return false;
}

/* All lines but the one that we wrote at an earlier start, when the machine may have had another name. */
static void put_foreign_lines(struct text *hosts, const char *present)
{
	for (const char *line = present; *line; line = next_line(line)) {
		size_t length = strcspn(line, "\n"), mark = strlen(OURS);

		if (length >= mark && strncmp(line + length - mark, OURS, mark) == 0)
			continue;
		text_bytes(hosts, line, length);
		text_put(hosts, "\n");
	}
}

/* 127.0.1.1 as Debian has it, also where a network gives the machine another address: it works without one. */
static void put_own_line(struct text *hosts, const char *name)
{
	size_t label = strcspn(name, ".");

	text_format(hosts, "127.0.1.1 %s", name);
	if (name[label])
		text_format(hosts, " %.*s", (int)label, name);
	text_put(hosts, OURS "\n");
}

static void write_hosts(const char *name)
{
	static char present[HOSTS_LIMIT], storage[HOSTS_LIMIT + 512];
	struct text hosts = TEXT_IN(storage);
	ssize_t length = file_read(HOSTS, present, sizeof present);

	if (length < 0 && errno != ENOENT) {
		say_errno("cannot read '" HOSTS "'");
		return;
	}
	if (length == (ssize_t)sizeof present - 1)
		return; /* a list of such a length is somebody's work, and not to be cut */
	if (length < 0)
		present[0] = '\0';
	put_foreign_lines(&hosts, present);
	if (!names_host(storage, "localhost"))
		text_put(&hosts, LOCALHOST);
	if (name[0] && !names_host(storage, name))
		put_own_line(&hosts, name);
	mkdir("/etc", 0755);
	if (strcmp(storage, present) != 0 && file_write(HOSTS, storage, hosts.length, 0644) < 0)
		say_errno("cannot write '" HOSTS "'");
}

/* systemd-resolved, where the image starts it and has its link: that it has nowhere to point to yet means nothing. */
static bool resolved_will_run(bool systemd)
{
	static const char *const wanted[] = {
		"/etc/systemd/system/dbus-org.freedesktop.resolve1.service",
		"/etc/systemd/system/sysinit.target.wants/systemd-resolved.service",
		"/etc/systemd/system/multi-user.target.wants/systemd-resolved.service",
	};
	char target[256] = "";

	if (!systemd || readlink(RESOLVER, target, sizeof target - 1) < 0 || !strstr(target, "/systemd/resolve/"))
		return false;
	for (size_t i = 0; i < LENGTH(wanted); i++) {
		if (access(wanted[i], F_OK) == 0)
			return true;
	}
	return false;
}

static void tell_resolved(const struct config *config)
{
	char storage[512];
	struct text lines = TEXT_IN(storage);

	text_put(&lines, "[Resolve]\nDNS=");
	for (size_t i = 0; i < config->dns_count; i++)
		text_format(&lines, "%s%s", i ? " " : "", config->dns[i]);
	text_put(&lines, "\n");
	if (make_folders(RESOLVED_FOLDER, 0755) < 0 || file_write(RESOLVED_FILE, storage, lines.length, 0644) < 0)
		say_errno("cannot write '" RESOLVED_FILE "'");
}

static bool is_file_with(const char *path, const char *wanted)
{
	char present[512];
	struct stat status;

	return lstat(path, &status) == 0 && S_ISREG(status.st_mode) && file_read(path, present, sizeof present) >= 0 &&
	       strcmp(present, wanted) == 0;
}

/* What the image has is of the machine where it was made; the servers of this one are what its host says. */
static void write_resolver(const struct config *config)
{
	char storage[512];
	struct text lines = TEXT_IN(storage);

	for (size_t i = 0; i < config->dns_count; i++)
		text_format(&lines, "nameserver %s\n", config->dns[i]);
	if (is_file_with(RESOLVER, storage))
		return;
	mkdir("/etc", 0755);
	unlink(RESOLVER);
	if (file_write(RESOLVER, storage, lines.length, 0644) < 0)
		say_errno("cannot write '" RESOLVER "'");
}

void lookup_apply(const struct config *config, bool systemd)
{
	write_hosts(config->hostname);
	if (config->dns_count == 0)
		return;
	if (resolved_will_run(systemd))
		tell_resolved(config);
	else
		write_resolver(config);
}

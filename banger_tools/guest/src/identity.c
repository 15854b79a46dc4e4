#include "init.h"

#include "console.h"
#include "file.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FILE_LIMIT 65536
#define GIT_FILE "/root/.gitconfig"
#define GIT_OURS "/root/.gitconfig-banger"
#define GIT_INCLUDE "\tpath = ~/.gitconfig-banger"

/* The image's own init sets the host name anew, from this file: what the host asked for has to stand there. */
static void keep_hostname(const char *name)
{
	char kept[66], storage[67];
	struct text line = TEXT_IN(storage);

	if (file_read_line("/etc/hostname", kept, sizeof kept) && strcmp(kept, name) == 0)
		return;
	mkdir("/etc", 0755);
	unlink("/etc/hostname");
	text_format(&line, "%s\n", name);
	if (file_write("/etc/hostname", storage, line.length, 0644) < 0)
		say_errno("cannot write '/etc/hostname'");
}

static void set_hostname(const struct config *config)
{
	char name[65] = "";

	if (config->hostname[0])
		snprintf(name, sizeof name, "%s", config->hostname);
	else if (!file_read_line("/etc/hostname", name, sizeof name) || !name[0])
		strcpy(name, "banger");
	if (sethostname(name, strlen(name)) < 0)
		say_errno("cannot set the host name '%s'", name);
	if (config->hostname[0])
		keep_hostname(name);
}

static bool has_line(const char *text, const char *line)
{
	size_t length = strlen(line);

	for (const char *at = text; (at = strstr(at, line)); at++) {
		if ((at == text || at[-1] == '\n') && (at[length] == '\n' || at[length] == '\0'))
			return true;
	}
	return false;
}

/* Append a text to a file, on a line of its own. */
static bool append(int fd, const char *present, const char *text)
{
	size_t length = strlen(present);

	if (length > 0 && present[length - 1] != '\n' && write_fully(fd, "\n", 1) < 0)
		return false;
	return write_fully(fd, text, strlen(text)) == 0;
}

static bool append_keys(char **keys, int fd, const char *present)
{
	for (size_t i = 0; keys[i]; i++) {
		if (has_line(present, keys[i]))
			continue;
		if (!append(fd, present, keys[i]) || write_fully(fd, "\n", 1) < 0)
			return false;
		present = "";
	}
	return true;
}

/* What sshd's StrictModes asks of a folder or file of root's: it is root's, and nobody else may write to it. */
static bool make_private(int fd, mode_t forbidden)
{
	struct stat status;

	return fstat(fd, &status) == 0 && fchown(fd, 0, 0) == 0 && fchmod(fd, status.st_mode & 07777 & ~forbidden) == 0;
}

/* The same of what is there, which is returned open; a link is left alone: what it leads to may be anything. */
static int mend(int folder, const char *name, int kind)
{
	int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | kind);

	if (fd >= 0 && !make_private(fd, 077))
		say_errno("cannot set the owner of '%s' in '/root'", name);
	return fd;
}

static int open_home(void)
{
	int home;

	mkdir("/root", 0700);
	home = open("/root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (home < 0)
		say_errno("cannot open '/root'");
	else if (!make_private(home, 022))
		say_errno("cannot set the owner of '/root'");
	return home;
}

/* The work disk comes from a seed that others made, and from runs before: at each boot it is as sshd wants it. */
static void mend_home(void)
{
	int home = open_home();
	int folder = home < 0 ? -1 : mend(home, ".ssh", O_DIRECTORY);
	int keys = folder < 0 ? -1 : mend(folder, "authorized_keys", 0);

	if (keys >= 0)
		close(keys);
	if (folder >= 0)
		close(folder);
	if (home >= 0)
		close(home);
}

static void write_keys(char **keys, int folder)
{
	static char present[FILE_LIMIT];
	int fd = openat(folder, "authorized_keys", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (file_read("/root/.ssh/authorized_keys", present, sizeof present) < 0)
		present[0] = '\0';
	if (fd < 0 || !append_keys(keys, fd, present) || !make_private(fd, 077) || !make_private(folder, 077))
		say_errno("cannot write '/root/.ssh/authorized_keys'");
	if (fd >= 0)
		close(fd);
}

static void add_keys(char **keys)
{
	int home, folder;

	if (!keys || !keys[0])
		return;
	home = open_home();
	if (home < 0)
		return;
	mkdirat(home, ".ssh", 0700);
	folder = openat(home, ".ssh", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	close(home);
	if (folder < 0) {
		say_errno("cannot open '/root/.ssh'");
		return;
	}
	write_keys(keys, folder);
	close(folder);
}

/* One line in the owner's file, at its end so that it holds; a blank line before it ends a line that goes on. */
static bool include_git_file(void)
{
	static char present[FILE_LIMIT];
	bool done;
	int fd;

	if (file_read(GIT_FILE, present, sizeof present) < 0)
		present[0] = '\0';
	if (has_line(present, GIT_INCLUDE))
		return true;
	fd = open(GIT_FILE, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0)
		return false;
	done = append(fd, present, present[0] ? "\n[include]\n" GIT_INCLUDE "\n" : "[include]\n" GIT_INCLUDE "\n");
	return close(fd) == 0 && done;
}

/* The identity is in a file of ours, written anew at each boot; git includes it, and what the owner has stays. */
static void set_git_identity(const struct config *config)
{
	char storage[1200];
	struct text lines = TEXT_IN(storage);

	if (!config->git_name[0] || !config->git_email[0])
		return;
	text_put(&lines, "[user]\n\tname = ");
	text_git(&lines, config->git_name);
	text_put(&lines, "\n\temail = ");
	text_git(&lines, config->git_email);
	text_put(&lines, "\n");
	mkdir("/root", 0700);
	if (file_write(GIT_OURS, storage, lines.length, 0644) < 0 || !include_git_file())
		say_errno("cannot write '" GIT_FILE "'");
}

/* Only forwards: a clock that the hardware keeps is better than the moment of the VM's start. */
static void set_clock(int64_t seconds)
{
	struct timeval now = { .tv_sec = seconds };

	if (seconds > time(NULL) && settimeofday(&now, NULL) < 0)
		say_errno("cannot set the clock");
}

void identity_apply(const struct config *config)
{
	set_clock(config->time);
	set_hostname(config);
	if (config->work[0])
		mend_home();
	add_keys(config->ssh_keys);
	set_git_identity(config);
}

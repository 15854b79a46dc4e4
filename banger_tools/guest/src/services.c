/* The script of first boot and sshd, run where no systemd has units for it. */
#include "init.h"

#include "command.h"
#include "console.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_BOOT "/usr/local/libexec/banger-first-boot"
#define MARKER "/var/lib/banger/first-boot-pending"

static bool is_needed(void)
{
	if (access(FIRST_BOOT, X_OK) < 0)
		return false;
	return access(MARKER, F_OK) == 0 || access("/usr/sbin/sshd", X_OK) == 0 || access("/usr/bin/sshd", X_OK) == 0;
}

static pid_t run_script(const char *word)
{
	char *argv[] = { (char *)FIRST_BOOT, (char *)word, NULL };
	pid_t pid = fork();

	if (pid < 0)
		say_errno("cannot start '" FIRST_BOOT "'");
	if (pid != 0)
		return pid;
	reset_signals();
	setsid();
	clearenv();
	setenv("PATH", DEFAULT_PATH, 1);
	setenv("HOME", "/root", 1);
	execv(FIRST_BOOT, argv);
	say_errno("cannot run '" FIRST_BOOT "'; the image may have no shell");
	_exit(STATUS_NOT_STARTED);
}

void services_start(void)
{
	pid_t keys;

	if (!is_needed())
		return;
	keys = run_script("--keys");
	while (keys > 0 && waitpid(keys, NULL, 0) < 0 && errno == EINTR)
		continue;
	run_script("--boot");
}

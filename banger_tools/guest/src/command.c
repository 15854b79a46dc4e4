#include "command.h"

#include "accounts.h"
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void reset_signals(void)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void refuse(int status, const char *what, const char *subject, const char *reason)
{
	say("cannot %s '%s': %s", what, subject, reason);
	_exit(status);
}

static void apply_list(char **list)
{
	for (size_t i = 0; list && list[i]; i++) {
		if (list[i][0] != '=' && strchr(list[i], '=') && putenv(list[i]) != 0)
			refuse(STATUS_NOT_STARTED, "set", list[i], "out of memory");
	}
}

/* Weakest first: our defaults, the account's, the image's, the request's. */
static void make_environment(const struct command *command, const struct account *account)
{
	clearenv();
	setenv("PATH", DEFAULT_PATH, 1);
	setenv("HOME", account->home[0] ? account->home : "/", 1);
	if (account->name[0])
		setenv("USER", account->name, 1);
	if (command->tty)
		setenv("TERM", "xterm", 1);
	apply_list(command->defaults);
	apply_list(command->env);
}

/* The agent outlives a machine that is out of memory; what it runs must not. */
static void reset_oom_score(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (write(fd, "0", 1) < 0)
			say_errno("cannot reset the OOM score");
		close(fd);
	}
}

/* /dev/stdout opened anew must work for the user too; container runtimes hand the pipes over likewise. */
static void give_streams(uid_t uid)
{
	for (int standard = 0; standard <= 2; standard++) {
		struct stat status;

		if (fstat(standard, &status) == 0 && (S_ISFIFO(status.st_mode) || isatty(standard)) &&
		    fchown(standard, uid, (gid_t)-1) < 0)
			return; /* not ours to give: an unprivileged agent */
	}
}

static void become_user(const char *spec, struct account *account)
{
	if (setgroups(account->group_count, account->groups) < 0 && errno != EPERM)
		refuse(STATUS_NOT_STARTED, "become user", spec, strerror(errno));
	if (getgid() != account->gid && setgid(account->gid) < 0)
		refuse(STATUS_NOT_STARTED, "become user", spec, strerror(errno));
	if (getuid() != account->uid && setuid(account->uid) < 0)
		refuse(STATUS_NOT_STARTED, "become user", spec, strerror(errno));
}

static bool is_program(const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Look for the name along PATH; errno says why nothing was found: ENOENT or, for files without x, EACCES. */
static bool search_path(const char *name, char *found, size_t size)
{
	const char *path = getenv("PATH");
	bool denied = false;

	for (const char *at = path ? path : DEFAULT_PATH; at; at = *at ? at + 1 : NULL) {
		size_t length = strcspn(at, ":");
		int used = snprintf(found, size, "%.*s%s%s", (int)length, at, length ? "/" : "", name);

		at += length;
		if (used > 0 && (size_t)used < size && is_program(found)) {
			if (access(found, X_OK) == 0)
				return true;
			denied = true;
		}
		if (!*at)
			break;
	}
	errno = denied ? EACCES : ENOENT;
	return false;
}

static _Noreturn void execute(char **argv)
{
	char found[PATH_MAX];
	const char *program = argv[0];

	if (!strchr(program, '/') && !search_path(program, found, sizeof found))
		refuse(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_STARTED, "run", program,
		       errno == ENOENT ? "not found" : strerror(errno));
	execv(strchr(program, '/') ? program : found, argv);
	refuse(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_STARTED, "run", program, strerror(errno));
}

_Noreturn void command_become(const struct command *command)
{
	struct account account;
	char why[256];
	const char *cwd = command->cwd && command->cwd[0] ? command->cwd : "/";
	bool inside;

	console_name(AGENT_NAME);
	if (!command->argv || !command->argv[0] || !command->argv[0][0])
		refuse(STATUS_NOT_FOUND, "run", "", "no command");
	if (!account_find(command->user ? command->user : "", &account, why, sizeof why))
		refuse(STATUS_NOT_STARTED, "run", command->argv[0], why);
	make_environment(command, &account);
	reset_signals();
	reset_oom_score();
	umask(022);
	if (account.uid != 0)
		give_streams(account.uid);
	inside = chdir(cwd) == 0; /* before it is the user's own right to: a WORKDIR may be closed to the USER */
	become_user(command->user ? command->user : "", &account);
	if (!inside && chdir(cwd) < 0)
		refuse(STATUS_NOT_STARTED, "enter folder", cwd, strerror(errno));
	execute(command->argv);
}

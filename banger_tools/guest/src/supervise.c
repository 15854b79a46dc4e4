#include "init.h"

#include "command.h"
#include "console.h"
#include "file.h"
#include "power.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define STOP_GRACE_MS 10000 /* what a command gets between TERM and KILL, as container runtimes do */
#define KILL_WAIT_MS 2000
#define RESTART_PAUSE_MS 1000

static const int forwarded[] = { SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGWINCH, SIGPWR };

static void run_agent_once(void)
{
	char *argv[] = { (char *)"agent", NULL };
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		_exit(agent_main(1, argv));
	}
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
}

void agent_keep(void)
{
	if (fork() != 0)
		return;
	reset_signals();
	setsid();
	prctl(PR_SET_NAME, "banger-keeper");
	for (;;) {
		run_agent_once();
		sleep_ms(RESTART_PAUSE_MS);
	}
}

/* Nobody types on the console: what reads its input is to see the end of it. */
static void read_nothing(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (fd > 0)
		dup2(fd, STDIN_FILENO);
}

static pid_t start_command(const struct config *config)
{
	static char hostname[80] = "HOSTNAME=";
	char *defaults[] = { hostname, NULL };
	struct command command = {
		.argv = config->argv, .env = config->env, .defaults = defaults, .user = config->user, .cwd = config->cwd,
	};
	pid_t pid;

	gethostname(hostname + strlen("HOSTNAME="), sizeof hostname - sizeof "HOSTNAME=");

	make_folders(config->cwd, 0755); /* runtimes make a WorkingDir that the image lacks */
	pid = fork();
	if (pid == 0) {
		setsid();
		read_nothing();
		command_become(&command);
	}
	if (pid < 0)
		say_errno("cannot start the image's command");
	return pid;
}

/* The line that the host looks for on the console. */
static void report(int status)
{
	if (WIFSIGNALED(status))
		say("command ended with status %d (signal %d)", 128 + WTERMSIG(status), WTERMSIG(status));
	else
		say("command ended with status %d", WEXITSTATUS(status));
}

/* Reap all that ended; true when the command was among them. */
static bool reap(pid_t command)
{
	int status;
	pid_t pid;
	bool ended = false;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != command)
			continue;
		report(status);
		ended = true;
	}
	return ended;
}

static bool asks_to_stop(int number)
{
	/* busybox's poweroff, halt and reboot send USR2, USR1 and TERM; ctrl-alt-del is INT, power failure PWR */
	return number == SIGTERM || number == SIGINT || number == SIGPWR || number == SIGUSR1 || number == SIGUSR2;
}

static int next_signal(const sigset_t *wanted, int64_t deadline)
{
	int64_t left = deadline ? deadline - now_ms() : 0;
	struct timespec wait = { .tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000 };
	int number;

	if (deadline && left <= 0)
		return -1;
	do
		number = sigtimedwait(wanted, NULL, deadline ? &wait : NULL);
	while (number < 0 && errno == EINTR);
	return number;
}

static void watch_command(pid_t command, const sigset_t *wanted)
{
	int64_t deadline = 0;
	bool killed = false;

	for (;;) {
		int number = next_signal(wanted, deadline);

		if (number < 0) { /* it outlived its grace */
			if (killed)
				return; /* it hangs in the kernel */
			number = SIGKILL;
			killed = true;
			deadline = now_ms() + KILL_WAIT_MS;
		}
		if (number == SIGCHLD) {
			if (reap(command))
				return;
			continue;
		}
		if (!deadline && (number == SIGTERM || number == SIGPWR))
			deadline = now_ms() + STOP_GRACE_MS;
		kill(-command, number == SIGPWR ? SIGTERM : number);
	}
}

static void watch_nothing(const sigset_t *wanted)
{
	for (;;) {
		int number = next_signal(wanted, 0);

		if (number == SIGCHLD)
			reap(0);
		else if (asks_to_stop(number))
			return;
	}
}

_Noreturn void supervise(const struct config *config)
{
	sigset_t wanted;
	pid_t command;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	for (size_t i = 0; i < LENGTH(forwarded); i++)
		sigaddset(&wanted, forwarded[i]);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	command = config->run ? start_command(config) : 0;
	if (command > 0)
		watch_command(command, &wanted);
	else if (command == 0)
		watch_nothing(&wanted);
	say("powering down");
	power_down(config->reboot, 2000);
}

/* Turning a forked process into a program of the image, as a container runtime would. */
#ifndef BANGER_COMMAND_H
#define BANGER_COMMAND_H

#include "guest.h"

struct command {
	char **argv;
	char **env;      /* what was asked for; wins over `defaults` */
	char **defaults; /* the image's own environment */
	const char *user;
	const char *cwd;
	bool tty;
};

#define STATUS_NOT_FOUND 127
#define STATUS_NOT_STARTED 126

/*
 * Become the command: environment, working folder, user and groups, then execve of what PATH of that
 * environment finds. Never returns: on failure one line on standard error and status 126 or 127.
 */
_Noreturn void command_become(const struct command *command);

/* Undo what we did to the signals: nothing of it may reach a program of the image. */
void reset_signals(void);

#endif

#include "agent.h"

#include "console.h"
#include "exec.h"
#include "file.h"
#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FIRST_BOOT_MARKER "/var/lib/banger/first-boot-pending"
#define LATEST_TIME 7258118400 /* 2200-01-01: the kernel's own end is not far behind */

/*
 * Ready is said by the first answer: our init starts the agent, or the init that starts it, when the file systems
 * and the network are as they were asked for. What an image installs at its first boot may take minutes more.
 */
void answer_health(struct connection *connection)
{
	char body[512], boot_id[64] = "";
	struct text text = TEXT_IN(body);
	struct timespec up;

	file_read_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
	clock_gettime(CLOCK_BOOTTIME, &up);
	text_put(&text, "{\"name\": \"" AGENT_NAME "\", \"version\": \"" GUEST_VERSION "\", \"boot_id\": ");
	text_json(&text, boot_id);
	text_format(&text, ", \"uptime\": %lld.%02ld, \"ready\": true", (long long)up.tv_sec, up.tv_nsec / 10000000);
	text_format(&text, ", \"first_boot_pending\": %s}\n", access(FIRST_BOOT_MARKER, F_OK) == 0 ? "true" : "false");
	http_answer(connection, 200, body, text.length);
}

/* What an exec request holds in memory of its own, besides the options that point into it. */
struct exec_request {
	struct exec_options options;
	char **argv, **env;
	char *cwd, *user;
};

/* A member that may be missing but, if there, must be of its type; false when it is not. */
static bool optional_text(struct json object, const char *name, char **copy)
{
	struct json value = json_member(object, name);

	if (!value.start || *value.start == 'n')
		return true;
	*copy = json_copy(value);
	return *copy != NULL;
}

static bool optional_flag(struct json object, const char *name, bool *flag)
{
	struct json value = json_member(object, name);

	return !value.start || json_boolean(value, flag);
}

static bool optional_size(struct json object, const char *name, unsigned short *size)
{
	struct json value = json_member(object, name);
	int64_t number = *size;

	if (value.start && (!json_integer(value, &number) || number < 0 || number > UINT16_MAX))
		return false;
	*size = (unsigned short)number;
	return true;
}

/* The name of the member that is wrong, or NULL. */
static const char *parse_exec(struct json object, struct exec_request *exec)
{
	struct exec_options *options = &exec->options;

	exec->argv = json_copy_list(json_member(object, "argv"));
	if (!exec->argv || !exec->argv[0])
		return "argv";
	if (json_member(object, "env").start)
		exec->env = json_copy_list(json_member(object, "env"));
	if (json_member(object, "env").start && !exec->env)
		return "env";
	if (!optional_text(object, "cwd", &exec->cwd))
		return "cwd";
	if (!optional_text(object, "user", &exec->user))
		return "user";
	if (!optional_flag(object, "tty", &options->command.tty))
		return "tty";
	if (!optional_flag(object, "stdin", &options->stdin_open))
		return "stdin";
	if (!optional_size(object, "rows", &options->rows))
		return "rows";
	return optional_size(object, "cols", &options->cols) ? NULL : "cols";
}

static void release_exec(struct exec_request *exec)
{
	json_free_list(exec->argv);
	json_free_list(exec->env);
	free(exec->cwd);
	free(exec->user);
}

void answer_exec(struct connection *connection, const struct request *request)
{
	size_t length;
	char *body = http_read_json(connection, request, &length);
	struct exec_request exec = { .options = { .rows = 24, .cols = 80 } };
	const char *wrong;

	if (!body)
		return;
	wrong = parse_exec(json_check(body, length), &exec);
	if (wrong) {
		http_refuse(connection, 400, "'%s' is missing or of the wrong type", wrong);
	} else {
		exec.options.command.argv = exec.argv;
		exec.options.command.env = exec.env;
		exec.options.command.defaults = agent.config.env;
		exec.options.command.user = exec.user;
		exec.options.command.cwd = exec.cwd;
		exec_serve(connection, &exec.options);
	}
	release_exec(&exec);
	free(body);
}

void answer_sync(struct connection *connection)
{
	sync();
	http_answer(connection, 200, "{\"synced\": true}\n", 17);
}

static bool may_change_system(struct connection *connection)
{
	if (!agent.system)
		http_refuse(connection, 403, "this agent was not started as the machine's own (--system)");
	return agent.system;
}

/* A number of seconds since 1970 that makes sense as today, perhaps with a fraction. */
static bool parse_seconds(struct json value, struct timeval *when)
{
	const char *at = value.start;
	int64_t seconds = 0, micros = 0;

	for (; at && at < value.end && *at >= '0' && *at <= '9' && seconds < LATEST_TIME; at++)
		seconds = seconds * 10 + (*at - '0');
	if (!at || at == value.start || seconds >= LATEST_TIME)
		return false;
	if (at < value.end && *at == '.') {
		at++;
		for (int64_t unit = 100000; at < value.end && *at >= '0' && *at <= '9'; at++, unit /= 10)
			micros += unit * (*at - '0');
	}
	*when = (struct timeval){ .tv_sec = seconds, .tv_usec = (suseconds_t)micros };
	return at == value.end;
}

/* A number alone, or an object with `seconds` and perhaps `microseconds`. */
static bool parse_time(struct json value, struct timeval *when)
{
	struct json part = json_member(value, "microseconds");
	int64_t micros = 0;

	if (!json_is_object(value))
		return parse_seconds(value, when);
	if (!parse_seconds(json_member(value, "seconds"), when))
		return false;
	if (!part.start)
		return true;
	when->tv_usec = json_integer(part, &micros) && micros >= 0 && micros <= 999999 ? (suseconds_t)micros : -1;
	return when->tv_usec >= 0;
}

void answer_time(struct connection *connection, const struct request *request)
{
	size_t length;
	char *body = http_read_json(connection, request, &length), answer[64];
	struct timeval when = { 0 };
	bool known;

	if (!body)
		return;
	known = parse_time(json_check(body, length), &when);
	free(body);
	if (!known)
		http_refuse(connection, 400, "a time in seconds since 1970 is wanted, before the year 2200");
	else if (!may_change_system(connection))
		return;
	else if (settimeofday(&when, NULL) < 0) /* EINVAL: the machine would have started before 1970 */
		http_refuse(connection, errno == EINVAL ? 400 : 503, "cannot set the clock: %s", strerror(errno));
	else
		http_answer(connection, 200, answer,
			    (size_t)snprintf(answer, sizeof answer, "{\"seconds\": %lld}\n", (long long)time(NULL)));
}

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

void answer_health(struct connection *connection)
{
	char body[512], boot_id[64] = "";
	struct text text = TEXT_IN(body);
	struct timespec up;

	file_read_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
	clock_gettime(CLOCK_BOOTTIME, &up);
	text_put(&text, "{\"name\": \"" AGENT_NAME "\", \"version\": \"" GUEST_VERSION "\", \"boot_id\": ");
	text_json(&text, boot_id);
	text_format(&text, ", \"uptime\": %lld.%02ld, \"ready\": true}\n", (long long)up.tv_sec, up.tv_nsec / 10000000);
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

void answer_time(struct connection *connection, const struct request *request)
{
	size_t length;
	char *body = http_read_json(connection, request, &length), answer[64];
	struct timeval now = { 0 };
	int64_t seconds, micros = 0;
	struct json object;

	if (!body)
		return;
	object = json_check(body, length);
	if (!json_integer(json_member(object, "seconds"), &seconds) ||
	    (json_member(object, "microseconds").start && !json_integer(json_member(object, "microseconds"), &micros)) ||
	    seconds < 0 || micros < 0 || micros > 999999) {
		http_refuse(connection, 400, "'seconds' (since 1970) and perhaps 'microseconds' are wanted");
	} else if (may_change_system(connection)) {
		now = (struct timeval){ .tv_sec = seconds, .tv_usec = (suseconds_t)micros };
		if (settimeofday(&now, NULL) < 0)
			http_refuse(connection, 503, "cannot set the clock: %s", strerror(errno));
		else
			http_answer(connection, 200, answer,
				    (size_t)snprintf(answer, sizeof answer, "{\"seconds\": %lld}\n", (long long)time(NULL)));
	}
	free(body);
}

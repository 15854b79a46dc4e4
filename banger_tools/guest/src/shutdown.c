/* POST /shutdown: the image's own way where it has one, and a way that cannot fail. */
#include "agent.h"

#include "console.h"
#include "file.h"
#include "json.h"
#include "power.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define GRACE_MS 2000
#define ANSWER_WAIT_MS 1000

/* Real-time signals as systemd (and glibc) counts them; musl's own SIGRTMIN is one higher. */
#define SYSTEMD_POWER_OFF (34 + 4)
#define SYSTEMD_REBOOT (34 + 5)

/* The client must have its answer before the processes that carry it are ended: it closes when it has. */
static void wait_client(struct connection *connection)
{
	struct pollfd closed = { .fd = connection->fd, .events = POLLIN | POLLRDHUP };

	poll(&closed, 1, ANSWER_WAIT_MS);
}

static _Noreturn void end_now(void)
{
	setsid();
	power_down(agent.config.reboot, GRACE_MS);
}

/* /sbin/poweroff of sysvinit, OpenRC and busybox each know how to tell their init. */
static void run_program(void)
{
	const char *name = agent.config.reboot ? "reboot" : "poweroff";
	static const char *const folders[] = { "/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/" };
	char path[64];

	for (size_t i = 0; i < LENGTH(folders); i++) {
		strcat(strcpy(path, folders[i]), name);
		execl(path, name, (char *)NULL);
	}
	execl("/bin/busybox", "busybox", name, (char *)NULL);
}

static bool ask_program(void)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		run_program();
		_exit(127);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void end_gracefully(void)
{
	char name[32] = "";

	file_read_line("/proc/1/comm", name, sizeof name);
	if (strcmp(name, "systemd") == 0)
		kill(1, agent.config.reboot ? SYSTEMD_REBOOT : SYSTEMD_POWER_OFF);
	else if (strcmp(name, "banger-init") == 0)
		kill(1, SIGTERM);
	else if (!ask_program())
		end_now();
}

void answer_shutdown(struct connection *connection, const struct request *request)
{
	size_t length;
	char *body = http_read_json(connection, request, &length), mode[16] = "graceful";
	struct json value;
	bool known;

	if (!body)
		return;
	value = json_member(json_check(body, length), "mode");
	known = !value.start || json_text(value, mode, sizeof mode) >= 0;
	known = known && (strcmp(mode, "graceful") == 0 || strcmp(mode, "now") == 0);
	free(body);
	connection->closing = true;
	if (!known) {
		http_refuse(connection, 400, "'mode' must be graceful or now");
		return;
	}
	if (!agent.system) {
		http_refuse(connection, 403, "this agent was not started as the machine's own (--system)");
		return;
	}
	sync();
	http_answer(connection, 200, "{\"shutdown\": true}\n", 19);
	wait_client(connection);
	if (strcmp(mode, "now") == 0)
		end_now();
	end_gracefully();
}

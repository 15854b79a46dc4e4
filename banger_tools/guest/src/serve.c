#include "agent.h"

#include "file.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_MS 1000

static bool is(const struct request *request, const char *method, const char *path)
{
	return strcmp(request->method, method) == 0 && http_path_is(request, path);
}

static bool is_known_path(const struct request *request)
{
	static const char *const paths[] = { "/healthz", "/exec", "/sync", "/shutdown", "/time", "/stats", "/ports", "/files" };

	for (size_t i = 0; i < LENGTH(paths); i++) {
		if (http_path_is(request, paths[i]))
			return true;
	}
	return false;
}

static void dispatch(struct connection *connection, const struct request *request)
{
	if (is(request, "GET", "/healthz"))
		answer_health(connection);
	else if (is(request, "POST", "/exec"))
		answer_exec(connection, request);
	else if (is(request, "POST", "/sync"))
		answer_sync(connection);
	else if (is(request, "POST", "/shutdown"))
		answer_shutdown(connection, request);
	else if (is(request, "POST", "/time"))
		answer_time(connection, request);
	else if (is(request, "GET", "/stats"))
		answer_stats(connection);
	else if (is(request, "GET", "/ports"))
		answer_ports(connection);
	else if (is(request, "PUT", "/files"))
		answer_put_files(connection, request);
	else if (is(request, "GET", "/files"))
		answer_get_files(connection, request);
	else if (is_known_path(request))
		http_refuse(connection, 405, "'%s' is not for this path", request->method);
	else
		http_refuse(connection, 404, "nothing here; see banger-agent(7)");
}

/* Closing with bytes unread resets the connection, and our last answer would be lost with it. */
static void linger(int fd)
{
	int64_t deadline = now_ms() + LINGER_MS;
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	char bytes[4096];

	shutdown(fd, SHUT_WR);
	while (now_ms() < deadline && poll(&ready, 1, (int)(deadline - now_ms())) > 0) {
		if (read(fd, bytes, sizeof bytes) <= 0)
			return;
	}
}

void serve_client(int fd)
{
	struct connection *connection = calloc(1, sizeof *connection);
	struct request *request = malloc(sizeof *request);

	signal(SIGPIPE, SIG_IGN);
	if (connection && request) {
		connection->fd = fd;
		while (!connection->closing && http_receive(connection, request)) {
			dispatch(connection, request);
			if (connection->body_left > 0 || connection->chunked || connection->body_failed)
				break;
		}
	}
	free(connection);
	free(request);
	linger(fd);
	close(fd);
}

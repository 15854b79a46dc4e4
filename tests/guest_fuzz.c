/*
 * Feeds the guest program's parsers under sanitizers. Standard input holds records: one byte that names the
 * parser, the length (32 bits, host order), the bytes. Each goes into memory of exactly its size, so that the
 * first byte read too far is seen; what reads from a connection gets them through one. The argument is a folder
 * that archives are unpacked in.
 */
#include "../banger_tools/guest/src/agent.h"
#include "../banger_tools/guest/src/config.h"
#include "../banger_tools/guest/src/exec.h"
#include "../banger_tools/guest/src/http.h"
#include "../banger_tools/guest/src/json.h"
#include "../banger_tools/guest/src/serial.h"
#include "../banger_tools/guest/src/tar.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *folder;

/* A connection on which these bytes come, and then its end. */
static int stream_of(const char *bytes, size_t length)
{
	int pair[2], size = 1 << 20;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) < 0 ||
	    send(pair[1], bytes, length, MSG_DONTWAIT) != (ssize_t)length)
		abort();
	shutdown(pair[1], SHUT_WR);
	/* the far end stays open, so that answers have somewhere to go */
	return dup2(pair[1], 100) < 0 || close(pair[1]) < 0 ? -1 : pair[0];
}

static void walk(struct json value, int depth)
{
	char text[64];
	int64_t number;
	bool flag;

	json_free_list(json_copy_list(value));
	free(json_copy(value));
	json_text(value, text, sizeof text);
	json_integer(value, &number);
	json_boolean(value, &flag);
	json_member(value, "argv");
	for (struct json item = json_next(value, JSON_NONE); item.start && depth < 4; item = json_next(value, item))
		walk(item, depth + 1);
}

static void feed_json(const char *bytes, size_t length)
{
	static struct config config;

	walk(json_check(bytes, length), 0);
	config_defaults(&config);
	config_parse(&config, bytes, length);
	json_free_list(config.argv);
	json_free_list(config.env);
	json_free_list(config.ssh_keys);
}

static void feed_http(const char *bytes, size_t length)
{
	static struct request request;
	char value[100];
	size_t used;

	if (http_parse(bytes, length, &request, &used) == PARSE_DONE) {
		if (used > length)
			abort();
		http_query(&request, "path", value, sizeof value);
		http_path_is(&request, "/files");
	}
}

static void feed_frames(const char *bytes, size_t length)
{
	struct frame frame;

	for (size_t at = 0; at < length;) {
		ssize_t size = frame_parse((const unsigned char *)bytes + at, length - at, &frame);

		if (size <= 0)
			return;
		if (frame.length > 0 && frame.payload[frame.length - 1] == 1)
			putchar('.');
		at += (size_t)size;
	}
}

static void feed_serial(const char *bytes, size_t length)
{
	struct decoder decoder = { 0 };

	for (size_t i = 0; i < length; i++) {
		unsigned char byte = (unsigned char)bytes[i];

		if (decoder_take(&decoder, &byte) == EVENT_HELLO && strlen(decoder.control + 1) != TOKEN_LENGTH)
			abort();
	}
}

static void feed_tar(const char *bytes, size_t length)
{
	static struct tar_overrides overrides;
	static struct tar_entry entry;
	static unsigned char blocks[8 * PATH_MAX];

	memset(&overrides, 0, sizeof overrides);
	memset(&entry, 0, sizeof entry);
	tar_take_pax(&overrides, bytes, length);
	if (length >= TAR_BLOCK && tar_parse((const unsigned char *)bytes, &entry)) {
		tar_apply(&overrides, &entry);
		tar_format(&entry, blocks, sizeof blocks);
	}
}

/* A request with its body, as a server reads it. */
static void feed_body(const char *bytes, size_t length)
{
	static struct connection connection;
	static struct request request;
	char piece[777];
	size_t json;

	connection = (struct connection){ .fd = stream_of(bytes, length) };
	while (!connection.closing && http_receive(&connection, &request)) {
		if (request.length >= 0 && request.length % 2)
			free(http_read_json(&connection, &request, &json));
		while (http_read_body(&connection, piece, sizeof piece) > 0)
			continue;
		if (connection.body_failed)
			break;
	}
	close(connection.fd);
}

/* An archive, unpacked below the folder. */
static void feed_archive(const char *bytes, size_t length)
{
	static struct connection connection;
	static struct request request;

	connection = (struct connection){ .fd = stream_of(bytes, length), .body_left = (int64_t)length };
	snprintf(request.target, sizeof request.target, "/files?path=%s", folder);
	answer_put_files(&connection, &request);
	close(connection.fd);
}

/* The client's side of a command; an odd number of bytes comes to one with a terminal. */
static void feed_session(const char *bytes, size_t length)
{
	char *argv[] = { "cat", NULL };
	struct exec_options options = { .command = { .argv = argv, .tty = length % 2 }, .stdin_open = true };
	static struct connection connection;

	/* the first frames are there already: a client that is gone is not listened to any more */
	connection.have = length < sizeof connection.in ? length : sizeof connection.in;
	memcpy(connection.in, bytes, connection.have);
	connection.fd = stream_of(bytes + connection.have, length - connection.have);
	exec_serve(&connection, &options);
	close(connection.fd);
}

static void echo(int fd)
{
	char bytes[512];
	ssize_t got;

	while ((got = read(fd, bytes, sizeof bytes)) > 0 && write(fd, bytes, (size_t)got) == got)
		continue;
	_exit(0);
}

/* The stream of a port, to its end. */
static void feed_port(const char *bytes, size_t length)
{
	int port = stream_of(bytes, length);

	serial_serve(port, echo);
	close(port);
	signal(SIGCHLD, SIG_DFL);
}

static void feed(int parser, const char *bytes, size_t length)
{
	switch (parser) {
	case 'j':
		feed_json(bytes, length);
		break;
	case 'h':
		feed_http(bytes, length);
		break;
	case 'f':
		feed_frames(bytes, length);
		break;
	case 's':
		feed_serial(bytes, length);
		break;
	case 'b':
		feed_body(bytes, length);
		break;
	case 'a':
		feed_archive(bytes, length);
		break;
	case 'e':
		feed_session(bytes, length);
		break;
	case 'p':
		feed_port(bytes, length);
		break;
	default:
		feed_tar(bytes, length);
	}
}

int main(int argc, char **argv)
{
	struct rlimit small = { 1 << 20, 1 << 20 };

	folder = argc > 1 ? argv[1] : "/nowhere";
	setrlimit(RLIMIT_FSIZE, &small); /* whatever an archive may say of its files */
	signal(SIGPIPE, SIG_IGN);
	for (int parser = getchar(); parser != EOF; parser = getchar()) {
		uint32_t length;
		char *bytes;

		if (fread(&length, sizeof length, 1, stdin) != 1 || length > 1 << 20)
			return 1;
		bytes = malloc(length ? length : 1);
		if (!bytes || fread(bytes, 1, length, stdin) != length)
			return 1;
		feed(parser, bytes, length);
		free(bytes);
	}
	return 0;
}

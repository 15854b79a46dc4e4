#include "serial.h"

#include "console.h"
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FLAG 0x7e
#define ESCAPE 0x7d
#define FLIP 0x20
#define CHUNK 32768
#define ABSENT_WAIT_MS 500 /* SIGIO ends it sooner where the driver sends it */

static bool is_token(const char *bytes)
{
	for (size_t i = 0; i < TOKEN_LENGTH; i++) {
		if (!bytes[i] || !strchr("0123456789abcdef", bytes[i]))
			return false;
	}
	return true;
}

static enum event control_event(const struct decoder *decoder)
{
	if (decoder->control_length == CONTROL_LIMIT && decoder->control[0] == 'H' && is_token(decoder->control + 1))
		return EVENT_HELLO;
	return decoder->control_length == 1 && decoder->control[0] == 'E' ? EVENT_END : EVENT_NONE;
}

/* A flag behind anything but a whole message opens the next one: so a stream that was cut finds its feet again. */
static enum event take_flag(struct decoder *decoder)
{
	enum event event = decoder->in_control ? control_event(decoder) : EVENT_NONE;

	decoder->in_control = event == EVENT_NONE;
	decoder->escaped = false;
	decoder->control[decoder->control_length] = '\0';
	decoder->control_length = 0;
	return event;
}

static void take_control(struct decoder *decoder, char byte)
{
	if (decoder->control_length < CONTROL_LIMIT)
		decoder->control[decoder->control_length++] = byte;
	else
		decoder->control[0] = '?'; /* too long to be any message */
}

enum event decoder_take(struct decoder *decoder, unsigned char *byte)
{
	if (*byte == FLAG)
		return take_flag(decoder);
	if (decoder->in_control) {
		take_control(decoder, (char)*byte);
		return EVENT_NONE;
	}
	if (*byte == ESCAPE && !decoder->escaped) {
		decoder->escaped = true;
		return EVENT_NONE;
	}
	if (decoder->escaped)
		*byte ^= FLIP;
	decoder->escaped = false;
	return EVENT_DATA;
}

struct bytes {
	unsigned char bytes[2 * CHUNK + 128];
	size_t start, end;
};

/* One port and the connection that it carries at the moment. */
struct pump {
	int port;
	bool is_socket;
	void (*serve)(int fd);
	int session; /* our end of the pair whose other end is served; -1: no connection */
	bool input_ended;
	bool got_data;
	bool fresh; /* opened, but the driver has not called the host connected since */
	char token[TOKEN_LENGTH + 1];
	struct decoder decoder;
	struct bytes raw;     /* from the port, not decoded yet */
	struct bytes inward;  /* decoded, for the session */
	struct bytes outward; /* encoded, for the port */
};

/* How many bytes at the front stand for themselves. */
static size_t plain_run(const unsigned char *bytes, size_t length)
{
	const unsigned char *at = bytes, *end = bytes + length;

	while (at < end && *at != FLAG && *at != ESCAPE)
		at++;
	return (size_t)(at - bytes);
}

static bool is_empty(const struct bytes *bytes)
{
	return bytes->start == bytes->end;
}

static void put_byte(struct bytes *to, unsigned char byte)
{
	to->bytes[to->end++] = byte;
}

static void put_control(struct pump *pump, char kind, const char *token)
{
	put_byte(&pump->outward, FLAG);
	put_byte(&pump->outward, (unsigned char)kind);
	for (; *token; token++)
		put_byte(&pump->outward, (unsigned char)*token);
	put_byte(&pump->outward, FLAG);
}

static void close_session(struct pump *pump)
{
	if (pump->session >= 0)
		close(pump->session);
	pump->session = -1;
	pump->inward.start = pump->inward.end = 0;
}

static void open_session(struct pump *pump)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return;
	if (fork() == 0) {
		close(pair[0]);
		close(pump->port);
		signal(SIGCHLD, SIG_DFL);
		pump->serve(pair[1]);
		_exit(0);
	}
	close(pair[1]);
	set_blocking(pair[0], false);
	pump->session = pair[0];
	pump->input_ended = false;
	pump->got_data = false;
	pump->fresh = true;
}

/* The host repeats its hello until it hears the answer: the same token again is the same connection. */
static void take_hello(struct pump *pump)
{
	const char *token = pump->decoder.control + 1;
	bool again = strcmp(pump->token, token) == 0 && pump->session >= 0;

	if (again && pump->got_data)
		return;
	if (!again) {
		close_session(pump);
		pump->outward.start = pump->outward.end = 0;
		memcpy(pump->token, token, sizeof pump->token);
		open_session(pump);
	}
	if (sizeof pump->outward.bytes - pump->outward.end > CONTROL_LIMIT + 2)
		put_control(pump, 'A', pump->token);
}

static void take_byte(struct pump *pump, unsigned char byte)
{
	switch (decoder_take(&pump->decoder, &byte)) {
	case EVENT_HELLO:
		take_hello(pump);
		break;
	case EVENT_END:
		pump->input_ended = true;
		break;
	case EVENT_DATA:
		pump->got_data = true;
		if (pump->session >= 0 && !pump->input_ended)
			put_byte(&pump->inward, byte);
		break;
	default:
		break;
	}
}

/* Data without anything special needs no look at each byte: almost all of it is so. */
static void take_run(struct pump *pump)
{
	struct bytes *raw = &pump->raw, *to = &pump->inward;
	size_t length = raw->end - raw->start, space = sizeof to->bytes - to->end;

	if (pump->decoder.in_control || pump->decoder.escaped || pump->session < 0 || pump->input_ended)
		return;
	length = plain_run(raw->bytes + raw->start, length < space ? length : space);
	memcpy(to->bytes + to->end, raw->bytes + raw->start, length);
	to->end += length;
	raw->start += length;
	pump->got_data = pump->got_data || length > 0;
}

/* Decode what came as far as the session has room for it. */
static void decode(struct pump *pump)
{
	struct bytes *raw = &pump->raw;

	if (is_empty(&pump->inward))
		pump->inward.start = pump->inward.end = 0;
	while (!is_empty(raw) && pump->inward.end < sizeof pump->inward.bytes) {
		take_run(pump);
		if (!is_empty(raw) && pump->inward.end < sizeof pump->inward.bytes)
			take_byte(pump, raw->bytes[raw->start++]);
	}
	if (pump->session >= 0 && pump->input_ended && is_empty(&pump->inward))
		shutdown(pump->session, SHUT_WR);
}

/* The driver gives a page at a time: gather a few. */
static void read_port(struct pump *pump)
{
	struct bytes *raw = &pump->raw;
	ssize_t got;

	raw->start = raw->end = 0;
	do {
		got = read(pump->port, raw->bytes + raw->end, CHUNK - raw->end);
		raw->end += got > 0 ? (size_t)got : 0;
	} while (got > 0 && raw->end < CHUNK);
}

static void encode(struct pump *pump, const unsigned char *bytes, size_t length)
{
	struct bytes *to = &pump->outward;

	while (length > 0) {
		size_t run = plain_run(bytes, length);

		memcpy(to->bytes + to->end, bytes, run);
		to->end += run;
		if (run < length) {
			put_byte(to, ESCAPE);
			put_byte(to, bytes[run++] ^ FLIP);
		}
		bytes += run;
		length -= run;
	}
}

static void read_session(struct pump *pump)
{
	unsigned char bytes[CHUNK];
	ssize_t got = read(pump->session, bytes, sizeof bytes);

	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	pump->outward.start = pump->outward.end = 0;
	if (got > 0) {
		encode(pump, bytes, (size_t)got);
		return;
	}
	close_session(pump);
	put_control(pump, 'E', "");
}

/* False when the far end is gone for good. */
static bool write_some(int fd, struct bytes *from)
{
	ssize_t put = write(fd, from->bytes + from->start, from->end - from->start);

	if (put > 0)
		from->start += (size_t)put;
	return put >= 0 || errno == EINTR || errno == EAGAIN;
}

static void forget_host(struct pump *pump)
{
	close_session(pump);
	pump->outward.start = pump->outward.end = 0;
}

/*
 * No host is connected: whatever was under way has lost its client. The driver tells of a change by SIGIO;
 * polling would return at once for ever. A hello can overtake the news that the host is there, so a connection
 * just opened is given time.
 */
static void wait_host(struct pump *pump)
{
	struct timespec wait = { .tv_nsec = ABSENT_WAIT_MS * 1000000L };
	sigset_t io;

	if (!pump->fresh)
		forget_host(pump);
	sigemptyset(&io);
	sigaddset(&io, SIGIO);
	if (sigtimedwait(&io, NULL, &wait) < 0)
		forget_host(pump);
}

static void handle_session(struct pump *pump, short events)
{
	if (pump->session < 0)
		return;
	if (events & POLLOUT && !write_some(pump->session, &pump->inward))
		pump->inward.start = pump->inward.end = 0; /* it reads no more, but may still answer */
	if (events & (POLLIN | POLLHUP | POLLERR) && is_empty(&pump->outward))
		read_session(pump);
}

/* One round; false when the port is a socket and its end has come. */
static bool pump_once(struct pump *pump)
{
	bool idle = is_empty(&pump->raw), flushed = is_empty(&pump->outward);
	struct pollfd watch[2] = {
		{ pump->port, (short)((idle ? POLLIN : 0) | (flushed ? 0 : POLLOUT)), 0 },
		{ pump->session, (short)((is_empty(&pump->inward) ? 0 : POLLOUT) | (flushed ? POLLIN : 0)), 0 },
	};

	if (!flushed && !(watch[1].events & POLLOUT))
		watch[1].fd = -1; /* its HUP would end the poll again and again */
	if (poll(watch, 2, -1) < 0)
		return errno == EINTR;
	if (watch[0].revents & (POLLIN | POLLHUP)) {
		read_port(pump); /* after a HUP what waits undecoded in `raw` has lost its client and its worth */
		if (is_empty(&pump->raw) && pump->is_socket)
			return false;
	}
	if (!(watch[0].revents & POLLHUP))
		pump->fresh = false;
	if (watch[0].revents & POLLHUP && is_empty(&pump->raw))
		wait_host(pump);
	else if (watch[0].revents & POLLOUT)
		write_some(pump->port, &pump->outward);
	handle_session(pump, watch[1].revents);
	decode(pump);
	return true;
}

static void watch_port(int port)
{
	sigset_t io;

	sigemptyset(&io);
	sigaddset(&io, SIGIO);
	sigprocmask(SIG_BLOCK, &io, NULL);
	fcntl(port, F_SETOWN, getpid());
	fcntl(port, F_SETFL, fcntl(port, F_GETFL) | O_ASYNC | O_NONBLOCK);
}

void serial_serve(int port, void (*serve)(int fd))
{
	static struct pump pump;
	struct stat status;

	pump = (struct pump){ .port = port, .serve = serve, .session = -1 };
	pump.is_socket = fstat(port, &status) == 0 && S_ISSOCK(status.st_mode);
	signal(SIGCHLD, SIG_IGN); /* ended connections need no reaping */
	watch_port(port);
	if (!pump.is_socket && !isatty(port))
		put_control(&pump, 'E', ""); /* a host that waits for an agent that was killed would wait for ever */
	while (pump_once(&pump))
		continue;
	close_session(&pump);
}

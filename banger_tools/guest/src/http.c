#include "http.h"

#include "file.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define IDLE_LIMIT_MS 60000 /* for a whole request head, and for each next piece of a body */
#define LINE_LIMIT 8192

static bool is_token(const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)bytes[i];

		if (c <= ' ' || c >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", c))
			return false;
	}
	return length > 0;
}

static bool is_visible(const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)bytes[i] <= ' ' || bytes[i] == 0x7f)
			return false;
	}
	return length > 0;
}

static enum parse_result parse_request_line(const char *line, size_t length, struct request *request)
{
	const char *target = memchr(line, ' ', length), *version;
	size_t method_length, target_length;

	if (!target)
		return PARSE_BAD;
	method_length = (size_t)(target++ - line);
	version = memchr(target, ' ', length - method_length - 1);
	if (!version || !is_token(line, method_length) || method_length >= sizeof request->method)
		return PARSE_BAD;
	target_length = (size_t)(version++ - target);
	if (target_length >= sizeof request->target)
		return PARSE_TOO_LARGE;
	if (!is_visible(target, target_length) || target[0] != '/')
		return PARSE_BAD;
	if (length - (size_t)(version - line) != 8 || memcmp(version, "HTTP/1.", 7) != 0)
		return PARSE_BAD;
	memcpy(request->method, line, method_length);
	request->method[method_length] = '\0';
	memcpy(request->target, target, target_length);
	request->target[target_length] = '\0';
	request->close = version[7] == '0';
	return version[7] == '0' || version[7] == '1' ? PARSE_DONE : PARSE_BAD;
}

static bool parse_length(const char *value, int64_t *length)
{
	int64_t sum = 0;

	for (const char *at = value; *at; at++) {
		if (*at < '0' || *at > '9' || sum > (INT64_MAX - 9) / 10)
			return false;
		sum = sum * 10 + (*at - '0');
	}
	*length = sum;
	return *value != '\0';
}

struct seen {
	bool length;
	bool chunked;
};

/* Two lengths, or a length beside chunks, is how requests get smuggled: refused (RFC 9112 section 6.3). */
static enum parse_result take_field(const char *name, const char *value, struct request *request, struct seen *seen)
{
	if (strcasecmp(name, "content-length") == 0) {
		if (seen->length || seen->chunked || !parse_length(value, &request->length))
			return PARSE_BAD;
		seen->length = true;
	} else if (strcasecmp(name, "transfer-encoding") == 0) {
		if (seen->length || seen->chunked)
			return PARSE_BAD;
		if (strcasecmp(value, "chunked") != 0)
			return PARSE_UNSUPPORTED;
		seen->chunked = true;
		request->length = -1;
	} else if (strcasecmp(name, "connection") == 0) {
		request->close = request->close || strcasecmp(value, "close") == 0;
	} else if (strcasecmp(name, "expect") == 0) {
		request->expects_continue = strcasecmp(value, "100-continue") == 0;
	}
	return PARSE_DONE;
}

static enum parse_result parse_field(const char *line, size_t length, struct request *request, struct seen *seen)
{
	char name[64], value[LINE_LIMIT];
	const char *colon = memchr(line, ':', length);
	size_t name_length = colon ? (size_t)(colon - line) : 0;
	const char *end = line + length;

	if (!colon || !is_token(line, name_length) || memchr(line, '\0', length))
		return PARSE_BAD;
	if (name_length >= sizeof name) /* longer than any that we know */
		return PARSE_DONE;
	for (colon++; colon < end && (*colon == ' ' || *colon == '\t');)
		colon++;
	while (end > colon && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	if ((size_t)(end - colon) >= sizeof value)
		return PARSE_TOO_LARGE;
	memcpy(name, line, name_length);
	name[name_length] = '\0';
	memcpy(value, colon, (size_t)(end - colon));
	value[end - colon] = '\0';
	return take_field(name, value, request, seen);
}

enum parse_result http_parse(const char *bytes, size_t length, struct request *request, size_t *used)
{
	struct seen seen = { 0 };
	enum parse_result result = PARSE_DONE;

	memset(request, 0, sizeof *request);
	*used = 0;
	for (size_t at = 0; result == PARSE_DONE;) {
		const char *end = memmem(bytes + at, length - at, "\r\n", 2);
		size_t line = end ? (size_t)(end - bytes) - at : 0;

		if (!end)
			return length >= HEADER_LIMIT ? PARSE_TOO_LARGE : PARSE_INCOMPLETE;
		if (at > 0 && line == 0) {
			*used = at + 2;
			return PARSE_DONE;
		}
		result = at == 0 ? parse_request_line(bytes, line, request)
				 : parse_field(bytes + at, line, request, &seen);
		at += line + 2;
	}
	return result;
}

static void drop(struct connection *connection, size_t count)
{
	connection->have -= count;
	memmove(connection->in, connection->in + count, connection->have);
}

/* Wait for bytes and read them behind what is there; false at the end of the stream or after the deadline. */
static bool read_more(struct connection *connection, int64_t deadline)
{
	struct pollfd ready = { .fd = connection->fd, .events = POLLIN };
	int64_t left = deadline - now_ms();
	ssize_t got;

	if (connection->have >= sizeof connection->in || left <= 0 || poll(&ready, 1, (int)left) == 0)
		return false;
	got = read(connection->fd, connection->in + connection->have, sizeof connection->in - connection->have);
	if (got > 0)
		connection->have += (size_t)got;
	return got > 0 || (got < 0 && (errno == EINTR || errno == EAGAIN));
}

static void refuse_parse(struct connection *connection, enum parse_result result)
{
	connection->closing = true;
	if (result == PARSE_TOO_LARGE)
		http_refuse(connection, 431, "the request head is too large");
	else if (result == PARSE_UNSUPPORTED)
		http_refuse(connection, 501, "that transfer encoding is not supported");
	else
		http_refuse(connection, 400, "no HTTP request");
}

static void begin_body(struct connection *connection, const struct request *request)
{
	connection->chunked = request->length < 0;
	connection->body_left = connection->chunked ? 0 : request->length;
	connection->first_chunk = true;
	connection->closing = request->close;
	if (request->expects_continue && request->length != 0)
		write_fully(connection->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

bool http_receive(struct connection *connection, struct request *request)
{
	int64_t deadline = now_ms() + IDLE_LIMIT_MS;

	for (;;) {
		size_t used;
		enum parse_result result = http_parse(connection->in, connection->have, request, &used);

		if (result == PARSE_DONE) {
			drop(connection, used);
			begin_body(connection, request);
			return true;
		}
		if (result != PARSE_INCOMPLETE) {
			refuse_parse(connection, result);
			return false;
		}
		if (!read_more(connection, deadline))
			return false;
	}
}

/* Cut one line of a chunked body off the front of `in`; false when the stream ends or the line is too long. */
static bool take_line(struct connection *connection, char *line, size_t size)
{
	for (;;) {
		const char *end = memmem(connection->in, connection->have, "\r\n", 2);

		if (end) {
			size_t length = (size_t)(end - connection->in);

			if (length >= size)
				return false;
			memcpy(line, connection->in, length);
			line[length] = '\0';
			drop(connection, length + 2);
			return true;
		}
		if (connection->have >= size || !read_more(connection, now_ms() + IDLE_LIMIT_MS))
			return false;
	}
}

static bool parse_chunk_size(const char *line, int64_t *size)
{
	char *end;
	long long value;

	if (!strchr("0123456789abcdefABCDEF", *line) || !*line)
		return false;
	errno = 0;
	value = strtoll(line, &end, 16);
	if (errno || value < 0 || (*end && *end != ';' && *end != ' '))
		return false;
	*size = value;
	return true;
}

/* Go to the next chunk; false when the framing is broken. body_left stays 0 at the end of the body. */
static bool next_chunk(struct connection *connection)
{
	char line[256];

	if (!connection->first_chunk && (!take_line(connection, line, sizeof line) || line[0]))
		return false;
	connection->first_chunk = false;
	if (!take_line(connection, line, sizeof line) || !parse_chunk_size(line, &connection->body_left))
		return false;
	if (connection->body_left > 0)
		return true;
	connection->chunked = false;
	do { /* trailer fields */
		if (!take_line(connection, line, sizeof line))
			return false;
	} while (line[0]);
	return true;
}

ssize_t http_read_body(struct connection *connection, char *bytes, size_t size)
{
	if (connection->body_left == 0 && connection->chunked && !next_chunk(connection)) {
		connection->body_failed = true;
		return -1;
	}
	if (connection->body_left == 0)
		return 0;
	if ((int64_t)size > connection->body_left)
		size = (size_t)connection->body_left;
	while (connection->have == 0) {
		if (!read_more(connection, now_ms() + IDLE_LIMIT_MS)) {
			connection->body_failed = true;
			return -1;
		}
	}
	if (size > connection->have)
		size = connection->have;
	memcpy(bytes, connection->in, size);
	drop(connection, size);
	connection->body_left -= (int64_t)size;
	return (ssize_t)size;
}

char *http_read_json(struct connection *connection, const struct request *request, size_t *length)
{
	char *body;
	ssize_t got;

	*length = 0;
	connection->closing = connection->closing || request->length < 0 || request->length > JSON_BODY_LIMIT;
	if (request->length < 0 || request->length > JSON_BODY_LIMIT) {
		http_refuse(connection, request->length < 0 ? 411 : 413, "the JSON body must tell its length, at most %d",
			    JSON_BODY_LIMIT);
		return NULL;
	}
	body = malloc((size_t)request->length + 1);
	if (!body) {
		http_refuse(connection, 503, "out of memory");
		return NULL;
	}
	while ((got = http_read_body(connection, body + *length, (size_t)request->length - *length)) > 0)
		*length += (size_t)got;
	body[*length] = '\0';
	if (got == 0)
		return body;
	free(body);
	return NULL;
}

static const char *reason_of(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 411:
		return "Length Required";
	case 413:
		return "Content Too Large";
	case 431:
		return "Request Header Fields Too Large";
	case 501:
		return "Not Implemented";
	case 503:
		return "Service Unavailable";
	case 507:
		return "Insufficient Storage";
	default:
		return "Error";
	}
}

void http_answer(struct connection *connection, int status, const char *body, size_t length)
{
	char head[256];
	int size;

	if (connection->body_left > 0 || connection->chunked)
		connection->closing = true; /* the rest of a body that nobody read would be taken for a request */
	size = snprintf(head, sizeof head,
			"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s\r\n", status,
			reason_of(status), length, connection->closing ? "Connection: close\r\n" : "");
	if (write_fully(connection->fd, head, (size_t)size) < 0 || write_fully(connection->fd, body, length) < 0)
		connection->closing = true;
}

void http_refuse(struct connection *connection, int status, const char *format, ...)
{
	char sentence[512], body[4096];
	struct text text = TEXT_IN(body);
	va_list values;

	va_start(values, format);
	vsnprintf(sentence, sizeof sentence, format, values);
	va_end(values);
	text_put(&text, "{\"error\": ");
	text_json(&text, sentence);
	text_put(&text, "}\n");
	http_answer(connection, status, body, text.length);
}

bool http_start_stream(struct connection *connection, const char *media_type)
{
	char head[256];
	int size = snprintf(head, sizeof head,
			    "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n%s\r\n", media_type,
			    connection->closing ? "Connection: close\r\n" : "");

	return write_fully(connection->fd, head, (size_t)size) == 0;
}

bool http_stream(struct connection *connection, const char *bytes, size_t length)
{
	char head[24];
	int size = snprintf(head, sizeof head, "%zx\r\n", length);

	if (length == 0)
		return true; /* an empty chunk would be the end */
	return write_fully(connection->fd, head, (size_t)size) == 0 &&
	       write_fully(connection->fd, bytes, length) == 0 && write_fully(connection->fd, "\r\n", 2) == 0;
}

bool http_end_stream(struct connection *connection)
{
	return write_fully(connection->fd, "0\r\n\r\n", 5) == 0;
}

bool http_path_is(const struct request *request, const char *path)
{
	size_t length = strcspn(request->target, "?");

	return strlen(path) == length && memcmp(request->target, path, length) == 0;
}

static int hex_digit(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;

	return at ? (int)(at - digits) : -1;
}

static bool percent_decode(const char *from, size_t length, char *value, size_t size)
{
	size_t used = 0;

	for (size_t i = 0; i < length; i++) {
		char c = from[i];

		if (c == '%') {
			int high = i + 2 < length ? hex_digit(from[i + 1]) : -1;
			int low = high >= 0 ? hex_digit(from[i + 2]) : -1;

			if (low < 0 || (high == 0 && low == 0))
				return false;
			c = (char)(high << 4 | low);
			i += 2;
		}
		if (used + 1 >= size)
			return false;
		value[used++] = c;
	}
	value[used] = '\0';
	return true;
}

bool http_query(const struct request *request, const char *name, char *value, size_t size)
{
	const char *at = strchr(request->target, '?');
	size_t length = strlen(name);

	while (at) {
		const char *item = at + 1;

		at = strchr(item, '&');
		if (strncmp(item, name, length) != 0 || item[length] != '=')
			continue;
		item += length + 1;
		return percent_decode(item, at ? (size_t)(at - item) : strlen(item), value, size);
	}
	return false;
}

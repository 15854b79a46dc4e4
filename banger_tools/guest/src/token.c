/* The token: AF_VSOCK on the host has no owner and no mode, so whoever may talk to us has to know something. */
#include "agent.h"

#include "file.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TOKEN_WAIT_MS 10000 /* for the whole line */

/* Read a line of at most `size` bytes, and not one byte behind it; its length. */
static size_t read_line(int fd, char *line, size_t size)
{
	int64_t left, deadline = now_ms() + TOKEN_WAIT_MS;
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	size_t have = 0;

	while (have < size && !memchr(line, '\n', have) && (left = deadline - now_ms()) > 0) {
		int found = poll(&ready, 1, (int)left);
		ssize_t got = found > 0 ? read(fd, line + have, size - have) : found;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		have += (size_t)got;
	}
	return have;
}

/* In a time that does not tell how many bytes are right. */
static bool are_equal(const char *line, const char *wanted, size_t length)
{
	volatile unsigned char difference = 0;

	for (size_t i = 0; i < length; i++)
		difference |= (unsigned char)(line[i] ^ wanted[i]);
	return difference == 0;
}

bool token_is_told(int fd, const char *token)
{
	char wanted[TOKEN_LIMIT + 8], line[sizeof wanted];
	size_t length;

	if (!token[0])
		return true;
	length = (size_t)snprintf(wanted, sizeof wanted, "TOKEN %s\n", token);
	/* a line that is right has the length of ours, so what follows it stays in the socket */
	return read_line(fd, line, length) == length && are_equal(line, wanted, length);
}

/*
 * POST /exec: one command on one connection, as frames both ways. A frame is a type, three zero bytes, the
 * length of its payload (32 bits, big-endian, at most 65536), and the payload.
 */
#ifndef BANGER_EXEC_H
#define BANGER_EXEC_H

#include "command.h"
#include "http.h"

#include <sys/types.h>

#define FRAME_HEAD 8
#define FRAME_LIMIT 65536

enum frame_type {
	FRAME_STDIN = 0,  /* to the command; empty: end of its input */
	FRAME_STDOUT = 1,
	FRAME_STDERR = 2,
	FRAME_EXIT = 3,   /* JSON; the last frame */
	FRAME_SIGNAL = 4, /* one byte: the number */
	FRAME_WINSIZE = 5, /* rows and columns, 16 bits big-endian each */
	FRAME_TAKEN = 6,  /* from the guest: 32 bits, so many more bytes of stdin left our buffer */
};

#define STDIN_WINDOW (256 * 1024) /* what a client may send ahead of FRAME_TAKEN and still be heard at once */

struct frame {
	uint8_t type;
	uint32_t length;
	const unsigned char *payload;
};

/* The frame at the front of the bytes: its whole size, 0 when it is incomplete, -1 when it is malformed. */
ssize_t frame_parse(const unsigned char *bytes, size_t length, struct frame *frame);

struct exec_options {
	struct command command;
	unsigned short rows;
	unsigned short cols;
	bool stdin_open;
};

/* Run the command to its end, or until its client goes away. The connection is closed to HTTP afterwards. */
void exec_serve(struct connection *connection, const struct exec_options *options);

#endif

/*
 * Connections over a virtio-serial port, whose stream is not reset when the host's side reconnects.
 *
 * 0x7D escapes (the next byte is XORed with 0x20), 0x7E never appears in data: it opens and closes a control
 * message. From the host 'H' and 32 hex digits: a new connection, answered by 'A' and the same digits; what came
 * before the answer belongs to an older connection. 'E', either way: end of the stream in that direction.
 */
#ifndef BANGER_SERIAL_H
#define BANGER_SERIAL_H

#include "guest.h"

#define TOKEN_LENGTH 32
#define CONTROL_LIMIT (1 + TOKEN_LENGTH)

struct decoder {
	bool in_control;
	bool escaped;
	char control[CONTROL_LIMIT + 1];
	size_t control_length;
};

enum event { EVENT_NONE, EVENT_DATA, EVENT_HELLO, EVENT_END };

/* Take one byte of the stream; with EVENT_DATA `*byte` is decoded, with EVENT_HELLO the token is control + 1. */
enum event decoder_take(struct decoder *decoder, unsigned char *byte);

/* Speak on an open port for ever (or until a socket ends), one forked `serve(fd)` for each connection. */
void serial_serve(int port, void (*serve)(int fd));

#endif

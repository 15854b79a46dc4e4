/* HTTP/1.1 (RFC 9112), the server's half: as much as the agent needs, with a bound on all that comes in. */
#ifndef BANGER_HTTP_H
#define BANGER_HTTP_H

#include "guest.h"
#include "text.h"

#include <sys/types.h>

#define HEADER_LIMIT (16 * 1024)
#define TARGET_LIMIT 4096
#define JSON_BODY_LIMIT (1024 * 1024)

struct request {
	char method[16];
	char target[TARGET_LIMIT]; /* path and query as they came */
	int64_t length;            /* of the body; -1: chunked */
	bool close;                /* the client wants no second request on this connection */
	bool expects_continue;
};

enum parse_result {
	PARSE_INCOMPLETE,
	PARSE_DONE,
	PARSE_BAD,
	PARSE_TOO_LARGE,
	PARSE_UNSUPPORTED,
};

/* Read one request head from the first bytes of a stream; `used` is its length when PARSE_DONE. */
enum parse_result http_parse(const char *bytes, size_t length, struct request *request, size_t *used);

/* A connection of one client: what was read ahead is `in`. */
struct connection {
	int fd;
	char in[HEADER_LIMIT];
	size_t have;
	int64_t body_left;   /* of the body, or of the chunk */
	bool chunked;
	bool first_chunk;
	bool body_failed;    /* the client's framing broke or it went away: the connection is of no more use */
	bool closing;
};

/* Wait for the next request; false when the client is gone, idle for too long, or was refused with a status. */
bool http_receive(struct connection *connection, struct request *request);

/* Up to `size` bytes of the body; 0 at its end, -1 when it breaks off. */
ssize_t http_read_body(struct connection *connection, char *bytes, size_t size);

/* A whole JSON body with a NUL behind it, to be freed; NULL after an answer of 400, 411 or 413. */
char *http_read_json(struct connection *connection, const struct request *request, size_t *length);

/* Answer with a JSON text. */
void http_answer(struct connection *connection, int status, const char *body, size_t length);

/* Answer {"error": sentence}. */
void http_refuse(struct connection *connection, int status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Answer 200 with a body of unknown length: start, any number of pieces, end. False: the client is gone. */
bool http_start_stream(struct connection *connection, const char *media_type);
bool http_stream(struct connection *connection, const char *bytes, size_t length);
bool http_end_stream(struct connection *connection);

/* The value of a query parameter, percent-decoded; false when missing, too long, or holding a NUL. */
bool http_query(const struct request *request, const char *name, char *value, size_t size);

/* Does the path of the target (without its query) equal this one? */
bool http_path_is(const struct request *request, const char *path);

#endif

/* The agent's parts: who listens, and what each request does. */
#ifndef BANGER_AGENT_H
#define BANGER_AGENT_H

#include "config.h"
#include "http.h"

struct agent {
	struct config config;
	bool system; /* may end the machine and set its clock: never so in a test on somebody's host */
};

extern struct agent agent;

/* Read a client's first line: does it tell the token? Without a token nothing is read, and all may talk to us. */
bool token_is_told(int fd, const char *token);

/* Serve one client until it leaves, and close. */
void serve_client(int fd);

/* The requests, one function each. */
void answer_health(struct connection *connection);
void answer_exec(struct connection *connection, const struct request *request);
void answer_sync(struct connection *connection);
void answer_shutdown(struct connection *connection, const struct request *request);
void answer_time(struct connection *connection, const struct request *request);
void answer_stats(struct connection *connection);
void answer_ports(struct connection *connection);
void answer_put_files(struct connection *connection, const struct request *request);
void answer_get_files(struct connection *connection, const struct request *request);

#endif

#include "exec.h"

#include "console.h"
#include "file.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define HANGUP_GRACE_MS 2000
#define OUT_SIZE (4 * (FRAME_LIMIT + FRAME_HEAD))
#define OUT_CHUNK 32768
#define OUT_RESERVE 256 /* room for the frames that must always fit: exit and taken */
#define TAKEN_STEP (STDIN_WINDOW / 8)
#define PTY_DRAIN_LIMIT (256 * 1024)

/* Bytes on their way: those from `start` to `end` wait. */
struct queue {
	unsigned char *bytes;
	size_t start, end, size;
};

struct session {
	int client;
	pid_t pid;
	bool tty;
	bool client_gone;
	bool ended; /* the command is dead; its status is known */
	bool reported;
	int status;
	int input;      /* the command's standard input, or the pty; -1 when closed */
	int output[2];  /* its stdout (or the pty) and stderr; -1 when closed */
	int64_t left[2]; /* bytes still to read of each once the command ended */
	int children;   /* a signalfd for SIGCHLD */
	bool input_ends; /* no more input will come */
	uint32_t taken;  /* not yet told to the client */
	struct queue from_client, to_input, to_client;
	int64_t kill_at; /* when SIGHUP was not enough */
};

static bool queue_make(struct queue *queue, size_t size)
{
	*queue = (struct queue){ .bytes = malloc(size), .size = size };
	return queue->bytes != NULL;
}

static size_t queue_used(const struct queue *queue)
{
	return queue->end - queue->start;
}

static size_t queue_space(const struct queue *queue)
{
	return queue->size - queue_used(queue);
}

/* Move what waits to the front, so that all space is behind it. */
static void queue_settle(struct queue *queue)
{
	memmove(queue->bytes, queue->bytes + queue->start, queue_used(queue));
	queue->end = queue_used(queue);
	queue->start = 0;
}

static void queue_put(struct queue *queue, const void *bytes, size_t length)
{
	if (queue->size - queue->end < length)
		queue_settle(queue);
	memcpy(queue->bytes + queue->end, bytes, length);
	queue->end += length;
}

ssize_t frame_parse(const unsigned char *bytes, size_t length, struct frame *frame)
{
	uint32_t size;

	if (length < FRAME_HEAD)
		return 0;
	memcpy(&size, bytes + 4, sizeof size);
	size = be32toh(size);
	if (size > FRAME_LIMIT || bytes[1] || bytes[2] || bytes[3])
		return -1;
	if (length - FRAME_HEAD < size)
		return 0;
	*frame = (struct frame){ bytes[0], size, bytes + FRAME_HEAD };
	return (ssize_t)(FRAME_HEAD + size);
}

static void put_frame(struct session *session, enum frame_type type, const void *payload, size_t length)
{
	unsigned char head[FRAME_HEAD] = { (unsigned char)type };
	uint32_t size = htobe32((uint32_t)length);

	memcpy(head + 4, &size, sizeof size);
	queue_put(&session->to_client, head, sizeof head);
	queue_put(&session->to_client, payload, length);
}

static void close_input(struct session *session)
{
	if (session->input >= 0 && !session->tty)
		close(session->input);
	session->input = -1;
	session->taken += (uint32_t)queue_used(&session->to_input);
	session->to_input.start = session->to_input.end = 0;
}

static void close_output(struct session *session, int which)
{
	if (session->output[which] >= 0)
		close(session->output[which]);
	session->output[which] = -1;
	if (session->tty)
		close_input(session);
}

/* Keys of a terminal go to the job in its foreground; everything else to the command's own group. */
static void send_signal(struct session *session, int number)
{
	pid_t group = session->pid;

	if (session->ended || number < 1 || number >= NSIG)
		return;
	if (session->tty && session->output[0] >= 0 && (number == SIGINT || number == SIGQUIT || number == SIGTSTP)) {
		pid_t foreground = tcgetpgrp(session->output[0]);

		if (foreground > 0)
			group = foreground;
	}
	if (kill(-group, number) < 0)
		kill(session->pid, number); /* it has not come to its setsid yet */
}

static void set_window(struct session *session, const struct frame *frame)
{
	struct winsize size = { 0 };

	if (!session->tty || session->output[0] < 0 || frame->length != 4)
		return;
	size.ws_row = (unsigned short)(frame->payload[0] << 8 | frame->payload[1]);
	size.ws_col = (unsigned short)(frame->payload[2] << 8 | frame->payload[3]);
	ioctl(session->output[0], TIOCSWINSZ, &size);
}

static void take_stdin(struct session *session, const struct frame *frame)
{
	if (frame->length == 0)
		session->input_ends = true;
	else if (session->input < 0 || session->input_ends)
		session->taken += frame->length; /* nobody reads it; the client must not wait for that */
	else
		queue_put(&session->to_input, frame->payload, frame->length);
}

static void client_left(struct session *session)
{
	if (session->client_gone)
		return;
	session->client_gone = true;
	session->to_client.start = session->to_client.end = 0;
	send_signal(session, SIGHUP);
	session->kill_at = now_ms() + HANGUP_GRACE_MS;
}

/* Handle each whole frame that came, as long as its stdin has room. */
static void take_frames(struct session *session)
{
	struct queue *queue = &session->from_client;

	while (!session->client_gone) {
		struct frame frame;
		ssize_t size = frame_parse(queue->bytes + queue->start, queue_used(queue), &frame);

		if (size < 0)
			client_left(session);
		if (size <= 0)
			return;
		if (frame.type == FRAME_STDIN && frame.length > queue_space(&session->to_input))
			return;
		if (frame.type == FRAME_STDIN)
			take_stdin(session, &frame);
		else if (frame.type == FRAME_SIGNAL && frame.length == 1)
			send_signal(session, frame.payload[0]);
		else if (frame.type == FRAME_WINSIZE)
			set_window(session, &frame);
		queue->start += (size_t)size;
	}
}

static void read_client(struct session *session)
{
	struct queue *queue = &session->from_client;
	ssize_t got;

	queue_settle(queue);
	if (queue_space(queue) == 0)
		return;
	got = read(session->client, queue->bytes + queue->end, queue_space(queue));
	if (got > 0)
		queue->end += (size_t)got;
	else if (got == 0 || (errno != EINTR && errno != EAGAIN))
		client_left(session);
}

static void write_client(struct session *session)
{
	struct queue *queue = &session->to_client;
	ssize_t put = write(session->client, queue->bytes + queue->start, queue_used(queue));

	if (put > 0)
		queue->start += (size_t)put;
	else if (errno != EINTR && errno != EAGAIN)
		client_left(session);
}

static void write_input(struct session *session)
{
	struct queue *queue = &session->to_input;
	ssize_t put = write(session->input, queue->bytes + queue->start, queue_used(queue));

	if (put > 0) {
		queue->start += (size_t)put;
		session->taken += (uint32_t)put;
	} else if (errno != EINTR && errno != EAGAIN) {
		close_input(session);
	}
}

/* The end of the input: a closed pipe, or on a terminal its end-of-file character. */
static void end_input(struct session *session)
{
	struct termios modes;
	char mark = 4;

	if (session->input < 0 || !session->input_ends || queue_used(&session->to_input) > 0)
		return;
	if (session->tty) {
		if (tcgetattr(session->input, &modes) == 0)
			mark = (char)modes.c_cc[VEOF];
		if (write(session->input, &mark, 1) < 0 && errno == EAGAIN)
			return; /* the terminal's buffer is full: next time */
	}
	close_input(session);
}

static void read_output(struct session *session, int which)
{
	char bytes[OUT_CHUNK];
	size_t wanted = sizeof bytes;
	ssize_t got;

	if (session->ended && (int64_t)wanted > session->left[which])
		wanted = (size_t)session->left[which];
	got = wanted > 0 ? read(session->output[which], bytes, wanted) : 0;
	if (got < 0 && (errno == EINTR || (errno == EAGAIN && !session->ended)))
		return;
	if (got <= 0) {
		close_output(session, which);
		return;
	}
	if (session->ended)
		session->left[which] -= got;
	if (!session->client_gone)
		put_frame(session, which == 0 ? FRAME_STDOUT : FRAME_STDERR, bytes, (size_t)got);
}

/*
 * What the command wrote before it ended is read to the last byte. What its orphans write later is not waited
 * for: a daemon that keeps the pipe open must not keep the client.
 */
static void note_end(struct session *session)
{
	struct signalfd_siginfo drained;

	while (read(session->children, &drained, sizeof drained) > 0)
		continue;
	if (session->ended || waitpid(session->pid, &session->status, WNOHANG) != session->pid)
		return;
	session->ended = true;
	close_input(session);
	for (int which = 0; which < 2; which++) {
		int waiting = 0;

		if (session->output[which] >= 0 && !session->tty)
			ioctl(session->output[which], FIONREAD, &waiting);
		session->left[which] = session->tty ? PTY_DRAIN_LIMIT : waiting;
	}
}

static void report_end(struct session *session)
{
	char body[64];
	int length;

	if (session->reported || !session->ended || session->output[0] >= 0 || session->output[1] >= 0)
		return;
	if (WIFSIGNALED(session->status))
		length = snprintf(body, sizeof body, "{\"signal\": %d, \"status\": %d}", WTERMSIG(session->status),
				  128 + WTERMSIG(session->status));
	else
		length = snprintf(body, sizeof body, "{\"status\": %d}", WEXITSTATUS(session->status));
	session->reported = true;
	if (!session->client_gone)
		put_frame(session, FRAME_EXIT, body, (size_t)length);
}

static void report_taken(struct session *session)
{
	uint32_t taken = htobe32(session->taken);

	if (session->taken == 0 || session->reported || queue_space(&session->to_client) < OUT_RESERVE)
		return;
	if (session->taken < TAKEN_STEP && queue_used(&session->to_input) > 0)
		return;
	session->taken = 0;
	if (!session->client_gone)
		put_frame(session, FRAME_TAKEN, &taken, sizeof taken);
}

static bool has_room(const struct session *session)
{
	return session->client_gone || queue_space(&session->to_client) >= OUT_CHUNK + FRAME_HEAD + OUT_RESERVE;
}

static int poll_timeout(const struct session *session)
{
	int64_t left = session->kill_at - now_ms();

	if (session->ended) /* only what is there already counts, as soon as it has room */
		return !session->reported && has_room(session) ? 0 : -1;
	if (!session->client_gone)
		return -1;
	return left > 0 ? (int)left : 0;
}

enum { CLIENT, CHILDREN, INPUT, OUTPUT, ERRORS, WATCHED };

static void choose_events(struct session *session, struct pollfd *watch)
{
	bool room = has_room(session);
	bool write = queue_used(&session->to_client) > 0;
	bool read = queue_used(&session->from_client) < session->from_client.size;

	watch[CLIENT] = (struct pollfd){ session->client_gone ? -1 : session->client, POLLRDHUP, 0 };
	watch[CLIENT].events |= (short)((read ? POLLIN : 0) | (write ? POLLOUT : 0));
	watch[CHILDREN] = (struct pollfd){ session->ended ? -1 : session->children, POLLIN, 0 };
	watch[INPUT] = (struct pollfd){ queue_used(&session->to_input) > 0 ? session->input : -1, POLLOUT, 0 };
	watch[OUTPUT] = (struct pollfd){ room ? session->output[0] : -1, POLLIN, 0 };
	watch[ERRORS] = (struct pollfd){ room ? session->output[1] : -1, POLLIN, 0 };
}

static void handle_events(struct session *session, const struct pollfd *watch)
{
	if (watch[CHILDREN].revents)
		note_end(session);
	if (watch[CLIENT].revents & POLLIN)
		read_client(session);
	if (watch[CLIENT].revents & POLLOUT)
		write_client(session);
	if (watch[CLIENT].revents & (POLLHUP | POLLERR | POLLRDHUP))
		client_left(session);
	if (watch[INPUT].revents && session->input >= 0)
		write_input(session);
	for (int which = 0; which < 2; which++) {
		if (watch[OUTPUT + which].revents && session->output[which] >= 0)
			read_output(session, which);
	}
}

static void end_by_force(struct session *session)
{
	if (!session->client_gone || session->ended || now_ms() < session->kill_at)
		return;
	send_signal(session, SIGKILL);
	session->kill_at = now_ms() + HANGUP_GRACE_MS;
}

/* After the end a pipe without data, or with nothing owed, is done with. */
static void settle_outputs(struct session *session, const struct pollfd *watch)
{
	for (int which = 0; which < 2 && session->ended; which++) {
		bool polled = watch[OUTPUT + which].fd >= 0;

		if (session->output[which] >= 0 && ((polled && !watch[OUTPUT + which].revents) || session->left[which] <= 0))
			close_output(session, which);
	}
}

static bool is_finished(const struct session *session)
{
	return session->reported && (session->client_gone || queue_used(&session->to_client) == 0);
}

/* Everything that needs no waiting. */
static void advance(struct session *session)
{
	take_frames(session);
	end_input(session);
	end_by_force(session);
	report_taken(session);
	report_end(session);
}

static void run_session(struct session *session)
{
	struct pollfd watch[WATCHED];

	for (advance(session); !is_finished(session); advance(session)) {
		bool was_ended = session->ended;

		choose_events(session, watch);
		if (poll(watch, WATCHED, poll_timeout(session)) < 0) {
			if (errno != EINTR)
				return;
			continue;
		}
		handle_events(session, watch);
		if (was_ended)
			settle_outputs(session, watch);
	}
}

/* The three pipes of a command without a terminal: the far ends go to the child. */
static bool open_pipes(struct session *session, int *far)
{
	int input[2], output[2], errors[2];

	if (pipe2(input, O_CLOEXEC) < 0)
		return false;
	far[0] = input[0];
	session->input = input[1];
	if (pipe2(output, O_CLOEXEC) < 0)
		return false;
	far[1] = output[1];
	session->output[0] = output[0];
	if (pipe2(errors, O_CLOEXEC) < 0)
		return false;
	far[2] = errors[1];
	session->output[1] = errors[0];
	return true;
}

static bool open_terminal(struct session *session, const struct exec_options *options, int *far)
{
	struct winsize size = { .ws_row = options->rows, .ws_col = options->cols };
	int near;

	if (openpty(&near, &far[0], NULL, NULL, &size) < 0)
		return false;
	fcntl(near, F_SETFD, FD_CLOEXEC);
	far[1] = far[2] = far[0];
	session->output[0] = near;
	session->output[1] = -1;
	session->input = near;
	return true;
}

static _Noreturn void become_child(const struct exec_options *options, const int *far)
{
	setsid();
	if (options->command.tty)
		ioctl(far[0], TIOCSCTTY, 0);
	for (int standard = 0; standard <= 2; standard++)
		dup2(far[standard], standard);
	if (options->command.tty && far[0] > 2)
		close(far[0]);
	command_become(&options->command);
}

static bool start(struct session *session, const struct exec_options *options)
{
	int far[3] = { -1, -1, -1 };
	bool opened = session->tty ? open_terminal(session, options, far) : open_pipes(session, far);

	session->pid = opened ? fork() : -1;
	if (session->pid == 0)
		become_child(options, far);
	for (int i = 0; i < (session->tty ? 1 : 3); i++) {
		if (far[i] >= 0)
			close(far[i]);
	}
	if (session->pid < 0)
		return false;
	set_blocking(session->input, false);
	set_blocking(session->output[0], false);
	if (session->output[1] >= 0)
		set_blocking(session->output[1], false);
	return true;
}

static int watch_children(void)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	return signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
}

static bool prepare(struct session *session, struct connection *connection)
{
	session->children = watch_children();
	if (session->children < 0 || !queue_make(&session->from_client, 2 * (FRAME_LIMIT + FRAME_HEAD)) ||
	    !queue_make(&session->to_input, STDIN_WINDOW + FRAME_LIMIT) || !queue_make(&session->to_client, OUT_SIZE))
		return false;
	queue_put(&session->from_client, connection->in, connection->have);
	connection->have = 0;
	return true;
}

static void release(struct session *session)
{
	for (int which = 0; which < 2; which++)
		close_output(session, which);
	close_input(session);
	if (session->children >= 0)
		close(session->children);
	free(session->from_client.bytes);
	free(session->to_input.bytes);
	free(session->to_client.bytes);
}

void exec_serve(struct connection *connection, const struct exec_options *options)
{
	static const char switching[] =
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: banger-exec\r\n\r\n";
	struct session session = {
		.client = connection->fd, .tty = options->command.tty, .input = -1, .output = { -1, -1 },
		.input_ends = !options->stdin_open,
	};

	connection->closing = true;
	if (!prepare(&session, connection) || !start(&session, options)) {
		http_refuse(connection, 503, "cannot start a command: %s", strerror(errno));
		release(&session);
		return;
	}
	set_blocking(session.client, false);
	queue_put(&session.to_client, switching, sizeof switching - 1);
	run_session(&session);
	release(&session);
}

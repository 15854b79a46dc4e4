/* Who may talk to us: the host over vsock, whoever holds a virtio-serial port, and in tests a Unix socket. */
#include "agent.h"

#include "console.h"
#include "file.h"
#include "serial.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define PORTS_LIMIT 32
#define CLIENTS_LIMIT 256
#define HURRY_MS 10000    /* this long after the start ports and vsock are looked for often */
#define HURRY_STEP_MS 50
#define CALM_STEP_MS 1000

struct agent agent;

struct port {
	char device[32]; /* vport0p1 */
	pid_t pump;      /* 0: none runs */
};

static struct port ports[PORTS_LIMIT];
static int clients;

static void serve_port(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
	struct termios modes;

	if (fd < 0)
		_exit(errno == EBUSY ? 75 : 66);
	if (isatty(fd) && tcgetattr(fd, &modes) == 0) {
		cfmakeraw(&modes);
		tcsetattr(fd, TCSANOW, &modes);
	}
	serial_serve(fd, serve_client);
	_exit(0);
}

static int connect_unix(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	close(fd);
	return -1;
}

/* A test's stand-in for a port: a terminal, or a Unix socket that somebody listens on. */
static int serve_serial_path(const char *path)
{
	struct stat status;
	int fd;

	if (stat(path, &status) < 0 || !S_ISSOCK(status.st_mode))
		serve_port(path);
	fd = connect_unix(path);
	if (fd < 0) {
		say_errno("cannot connect to '%s'", path);
		return 66;
	}
	serial_serve(fd, serve_client);
	return 0;
}

/* A process of its own that goes when we go. */
static pid_t fork_worker(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			_exit(0);
		signal(SIGCHLD, SIG_DFL);
	}
	return pid;
}

static struct port *find_port(const char *device)
{
	struct port *free_slot = NULL;

	for (size_t i = 0; i < PORTS_LIMIT; i++) {
		if (strcmp(ports[i].device, device) == 0)
			return &ports[i];
		if (!free_slot && !ports[i].device[0])
			free_slot = &ports[i];
	}
	return free_slot;
}

static void start_pump(const char *device)
{
	struct port *port = strlen(device) < sizeof port->device ? find_port(device) : NULL;
	char path[300];

	if (!port || port->pump > 0)
		return;
	snprintf(path, sizeof path, "/dev/%s", device);
	if (access(path, R_OK | W_OK) < 0)
		return; /* its name comes a moment before its node */
	strcpy(port->device, device);
	port->pump = fork_worker();
	if (port->pump == 0)
		serve_port(path);
}

static void look_for_ports(void)
{
	DIR *folder = opendir("/sys/class/virtio-ports");

	for (struct dirent *entry; folder && (entry = readdir(folder));) {
		char path[300], name[64];

		snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
		if (entry->d_name[0] != '.' && file_read_line(path, name, sizeof name) &&
		    strncmp(name, SERIAL_PREFIX, strlen(SERIAL_PREFIX)) == 0)
			start_pump(entry->d_name);
	}
	if (folder)
		closedir(folder);
}

static int listen_vsock(void)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_port = AGENT_PORT, .svm_cid = VMADDR_CID_ANY };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 64) == 0)
		return fd;
	close(fd);
	return -1;
}

static int listen_unix(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || strlen(path) >= sizeof address.sun_path)
		return -1;
	strcpy(address.sun_path, path);
	unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 64) == 0)
		return fd;
	close(fd);
	return -1;
}

/* Programs in the guest can reach our vsock port too (through loopback): only the host is let in. */
static bool is_host(const struct sockaddr_storage *peer)
{
	const struct sockaddr_vm *address = (const struct sockaddr_vm *)peer;

	return peer->ss_family != AF_VSOCK || address->svm_cid == VMADDR_CID_HOST;
}

static void accept_client(int listener)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t size = sizeof peer;
	int fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);
	pid_t pid;

	if (fd < 0)
		return;
	pid = is_host(&peer) && clients < CLIENTS_LIMIT ? fork_worker() : -1;
	if (pid == 0) {
		close(listener);
		if (token_is_told(fd, agent.config.token))
			serve_client(fd);
		_exit(0);
	}
	clients += pid > 0;
	close(fd);
}

static void reap(void)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
		bool pump = false;

		for (size_t i = 0; i < PORTS_LIMIT; i++) {
			if (ports[i].pump == pid) {
				ports[i].pump = 0; /* a port that is still there is served again on the next look */
				pump = true;
			}
		}
		clients -= !pump;
	}
}

static void on_child(int number)
{
	(void)number; /* it only has to end the poll */
}

static _Noreturn void listen_forever(const char *unix_path)
{
	struct sigaction action = { .sa_handler = on_child };
	int64_t hurry_until = now_ms() + HURRY_MS;
	int listener = unix_path ? listen_unix(unix_path) : -1;

	sigaction(SIGCHLD, &action, NULL);
	if (unix_path && listener < 0) {
		say_errno("cannot listen on '%s'", unix_path);
		exit(73);
	}
	for (;;) {
		struct pollfd ready = { .fd = listener, .events = POLLIN };
		int wait = now_ms() < hurry_until ? HURRY_STEP_MS : CALM_STEP_MS;

		if (!unix_path) {
			look_for_ports();
			if (listener < 0)
				ready.fd = listener = listen_vsock();
		}
		if (poll(&ready, 1, wait) > 0)
			accept_client(listener);
		reap();
	}
}

/* 0, 1 and 2 must be something, or the next file opened would be a command's standard stream. */
static void hold_standard_streams(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

/* Without the file what init left there stays: an image's init may have mounted something over it. */
static bool load_config(const char *path)
{
	size_t length;
	char *text = config_from_file(path, &length);

	if (!text)
		return false;
	config_defaults(&agent.config);
	config_parse(&agent.config, text, length);
	free(text);
	return true;
}

int agent_main(int argc, char **argv)
{
	const char *unix_path = NULL, *serial_path = NULL, *config_path = NULL;

	console_name(AGENT_NAME);
	agent.system = argc < 2;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--system") == 0)
			agent.system = true;
		else if (strcmp(argv[i], "--listen-unix") == 0 && i + 1 < argc)
			unix_path = argv[++i];
		else if (strcmp(argv[i], "--serial") == 0 && i + 1 < argc)
			serial_path = argv[++i];
		else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
			config_path = argv[++i];
		else
			return say("unknown option '%s'", argv[i]), 64;
	}
	hold_standard_streams();
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "banger-agent");
	if (!load_config(config_path ? config_path : CONFIG_FILE) && config_path) {
		say_errno("cannot read the guest config '%s'", config_path);
		return 66;
	}
	if (serial_path)
		return serve_serial_path(serial_path);
	listen_forever(unix_path);
}

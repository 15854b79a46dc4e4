/*
 * A client of AF_VSOCK inside a guest: connects to a CID and port, asks for the agent's health and prints what came,
 * or why nothing did. With "listen" it answers one client itself, which shows that loopback works at all.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static const char question[] = "GET /healthz HTTP/1.1\r\nHost: guest\r\n\r\n";

static int fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

static int ask(int fd, struct sockaddr_vm *address)
{
	char bytes[4096];
	ssize_t got;

	if (connect(fd, (struct sockaddr *)address, sizeof *address) < 0)
		return fail("connect");
	printf("connected\n");
	if (send(fd, question, sizeof question - 1, MSG_NOSIGNAL) < 0)
		return fail("send");
	got = read(fd, bytes, sizeof bytes);
	if (got < 0)
		return fail("read");
	printf("%zd bytes: %.*s\n", got, (int)got, bytes);
	return 0;
}

static int answer(int fd, struct sockaddr_vm *address)
{
	char bytes[sizeof question];
	int client;

	address->svm_cid = VMADDR_CID_ANY;
	if (bind(fd, (struct sockaddr *)address, sizeof *address) < 0 || listen(fd, 1) < 0)
		return fail("listen");
	client = accept(fd, NULL, NULL);
	if (client < 0 || read(client, bytes, sizeof bytes) <= 0 || send(client, "hello", 5, MSG_NOSIGNAL) < 0)
		return fail("accept");
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (argc < 3 || fd < 0)
		return fail("socket");
	address.svm_port = (unsigned)atoi(argv[2]);
	address.svm_cid = (unsigned)atoi(argv[1]);
	return strcmp(argv[1], "listen") == 0 ? answer(fd, &address) : ask(fd, &address);
}

#include "network.h"

#include "console.h"
#include "file.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define INTERFACE_WAIT_MS 5000

/* "a.b.c.d/bits" → address and mask in network order; without bits the mask is /24. */
static bool parse_address(const char *text, struct in_addr *address, struct in_addr *mask)
{
	char host[64];
	const char *slash = strchr(text, '/');
	size_t length = slash ? (size_t)(slash - text) : strlen(text);
	int bits = slash ? atoi(slash + 1) : 24;

	if (length >= sizeof host || bits < 1 || bits > 32)
		return false;
	memcpy(host, text, length);
	host[length] = '\0';
	mask->s_addr = htonl(UINT32_MAX << (32 - bits));
	return inet_pton(AF_INET, host, address) == 1;
}

/* How well an interface suits: lower is better, 0 is none. Cards have a device; then the kernel's own order. */
static int interface_rank(const char *name)
{
	char path[300], index[16];

	if (strcmp(name, "lo") == 0 || name[0] == '.')
		return 0;
	snprintf(path, sizeof path, "/sys/class/net/%s/ifindex", name);
	if (!file_read_line(path, index, sizeof index))
		return 0;
	snprintf(path, sizeof path, "/sys/class/net/%s/device", name);
	return atoi(index) + (access(path, F_OK) == 0 ? 0 : INT_MAX / 2);
}

static bool find_interface(char *name)
{
	DIR *folder = opendir("/sys/class/net");
	int best = 0;

	for (struct dirent *entry; folder && (entry = readdir(folder));) {
		int rank = interface_rank(entry->d_name);

		if (rank > 0 && (best == 0 || rank < best) && strlen(entry->d_name) < IFNAMSIZ) {
			best = rank;
			strcpy(name, entry->d_name);
		}
	}
	if (folder)
		closedir(folder);
	return best > 0;
}

static bool wait_interface(char *name)
{
	for (int64_t deadline = now_ms() + INTERFACE_WAIT_MS; now_ms() < deadline; sleep_ms(20)) {
		if (find_interface(name))
			return true;
	}
	return false;
}

static struct ifreq request_for(const char *name)
{
	struct ifreq request = { 0 };

	strcpy(request.ifr_name, name);
	return request;
}

static bool set_address(int fd, unsigned long what, const char *name, struct in_addr address)
{
	struct ifreq request = request_for(name);
	struct sockaddr_in *value = (struct sockaddr_in *)&request.ifr_addr;

	value->sin_family = AF_INET;
	value->sin_addr = address;
	return ioctl(fd, (int)what, &request) == 0;
}

static bool bring_up(int fd, const char *name)
{
	struct ifreq request = request_for(name);

	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return false;
	request.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &request) == 0;
}

static bool add_default_route(int fd, const char *name, const char *gateway)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = (char *)name };
	struct sockaddr_in *address = (struct sockaddr_in *)&route.rt_gateway;

	address->sin_family = AF_INET;
	route.rt_dst.sa_family = AF_INET;
	route.rt_genmask.sa_family = AF_INET;
	if (inet_pton(AF_INET, gateway, &address->sin_addr) != 1) {
		errno = EINVAL;
		return false;
	}
	return ioctl(fd, SIOCADDRT, &route) == 0 || errno == EEXIST;
}

static void configure(int fd, const struct config *config)
{
	char name[IFNAMSIZ];
	struct in_addr address, mask;

	if (!parse_address(config->address, &address, &mask)) {
		say("guest config: '%s' is no IPv4 address with a prefix length", config->address);
		return;
	}
	if (!wait_interface(name)) {
		say("no network interface appeared; the network is not set up");
		return;
	}
	if (!set_address(fd, SIOCSIFADDR, name, address) || !set_address(fd, SIOCSIFNETMASK, name, mask) ||
	    !bring_up(fd, name))
		say_errno("cannot set address '%s' on '%s'", config->address, name);
	else if (config->gateway[0] && !add_default_route(fd, name, config->gateway))
		say_errno("cannot set default route '%s'", config->gateway);
}

void network_start(const struct config *config)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		say_errno("no network in this kernel");
		return;
	}
	bring_up(fd, "lo");
	if (config->address[0])
		configure(fd, config);
	close(fd);
}

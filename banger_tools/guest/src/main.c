/* One program, two names: init and agent. */
#include "guest.h"

#include "console.h"

#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int usage(void)
{
	fprintf(stderr, "usage: banger-guest init | agent [--listen-unix PATH] [--serial PATH] [--system]\n");
	return 64;
}

int main(int argc, char **argv)
{
	const char *name = argc > 0 ? basename(argv[0]) : "";

	if (argc > 1 && strcmp(argv[1], "--version") == 0) {
		printf("banger-guest %s\n", GUEST_VERSION);
		return 0;
	}
	if (argc > 1 && strcmp(argv[1], "agent") == 0)
		return agent_main(argc - 1, argv + 1);
	if (strcmp(name, "banger-vsock-agent") == 0 || strcmp(name, "agent") == 0)
		return agent_main(argc, argv);
	if (getpid() == 1 || strcmp(name, "banger-init") == 0 || strcmp(name, "init") == 0 ||
	    (argc > 1 && strcmp(argv[1], "init") == 0))
		return init_main();
	return usage();
}

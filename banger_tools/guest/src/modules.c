#include "modules.h"

#include "console.h"
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		say_errno("cannot read module '%s'", path);
		return;
	}
	if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
		say_errno("cannot load module '%s'", path);
	close(fd);
}

void modules_load(const char *list)
{
	static char text[65536];

	if (file_read(list, text, sizeof text) < 0)
		return; /* a kernel that has everything built in needs none */
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		load(line);
}

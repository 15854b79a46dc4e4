/* PID 1, or the /init of our initrd: from the kernel's hand-over to the image's own init, or to being it. */
#include "init.h"

#include "agent.h"
#include "console.h"
#include "file.h"
#include "modules.h"
#include "power.h"
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include "network.h"

#define AGENT_UNIT "/etc/systemd/system/banger-vsock-agent.service"
#define FATAL_PAUSE_MS 1000 /* time for the console to show why */

/* The kernel opens the console for us if the initrd has a node for it; before devtmpfs there may be none. */
static void open_console(void)
{
	int fd;

	if (fcntl(STDERR_FILENO, F_GETFD) >= 0)
		return;
	fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd < 0)
		return;
	for (int standard = 0; standard <= 2; standard++) {
		if (fd != standard)
			dup2(fd, standard);
	}
	if (fd > 2)
		close(fd);
}

static _Noreturn void fail(const struct config *config, const char *what)
{
	say("fatal: %s", what);
	sync();
	sleep_ms(FATAL_PAUSE_MS);
	power_down(config->reboot, 0);
}

/* The kernel command line speaks only where no config disk does. */
static void take_kernel_root(struct config *config)
{
	char line[4096], *word;

	if (!file_read_line("/proc/cmdline", line, sizeof line))
		return;
	for (word = strtok(line, " "); word; word = strtok(NULL, " ")) {
		if (strncmp(word, "root=/dev/", 10) == 0 && strlen(word + 5) < sizeof config->root)
			strcpy(config->root, word + 5);
	}
}

/* A file named by BANGER_CONFIG (the kernel hands such words of its command line on) comes before the disk. */
static char *find_config(size_t *length)
{
	const char *path = getenv("BANGER_CONFIG");
	char *text;

	if (!path)
		return config_from_disk(length);
	text = config_from_file(path, length);
	if (!text)
		say_errno("cannot read the guest config '%s'", path);
	return text;
}

static char *load_config(struct config *config, size_t *length)
{
	char *text;

	config_defaults(config);
	take_kernel_root(config);
	text = find_config(length);
	if (text)
		config_parse(config, text, *length);
	else
		say("no guest config found; the defaults are used");
	return text;
}

/* The init that the image brings, as a name to execute; NULL when it has none. */
static const char *image_init(void)
{
	static const char *const candidates[] = { "/sbin/init", "/etc/init", "/bin/init", "/lib/systemd/systemd" };
	static char own[PATH_MAX], path[PATH_MAX];

	if (!realpath("/usr/local/libexec/banger-init", own))
		own[0] = '\0';
	for (size_t i = 0; i < LENGTH(candidates); i++) {
		if (access(candidates[i], X_OK) < 0 || !realpath(candidates[i], path))
			continue;
		if (strcmp(path, own) != 0) /* an image may link /sbin/init to us */
			return candidates[i];
	}
	return NULL;
}

static bool is_systemd(const char *init)
{
	char path[PATH_MAX];

	return realpath(init, path) && strcmp(basename(path), "systemd") == 0;
}

static bool is_init(const char *program, const char *init)
{
	char wanted[PATH_MAX], found[PATH_MAX], name[PATH_MAX];

	if (!realpath(program, wanted) || !realpath(init, found) || strcmp(wanted, found) != 0)
		return false;
	snprintf(name, sizeof name, "%s", program);
	return is_systemd(init) || strcmp(basename(name), "init") == 0; /* and not another name of a busybox */
}

/*
 * What becomes process 1. A command that is to run is the machine's purpose, also where the image has an init: many
 * small images have a busybox link of that name, which nobody set up. Only if the command is that init, it is it.
 */
static const char *choose_init(const struct config *config)
{
	const char *init = config->init == INIT_BANGER ? NULL : image_init();

	if (!init || !config->run || config->init == INIT_IMAGE)
		return init;
	return config->argv && config->argv[0] && is_init(config->argv[0], init) ? init : NULL;
}

static void become(const char *init, const struct config *config)
{
	char *argv[] = { (char *)init, NULL };

	clearenv();
	setenv("PATH", DEFAULT_PATH, 1);
	setenv("HOME", "/", 1);
	setenv("TERM", "linux", 1);
	say("starting the image's own '%s'", init);
	execv(init, argv);
	say_errno("cannot execute '%s'", init);
	if (config->init == INIT_IMAGE)
		fail(config, "the image's init does not start");
}

static void start_userland(const struct config *config)
{
	const char *init = choose_init(config);
	bool systemd = init && is_systemd(init);
	bool has_unit = systemd && access(AGENT_UNIT, F_OK) == 0;

	mount_late(!systemd);
	identity_apply(config);
	lookup_apply(config, systemd);
	network_start(config);
	agent.config = *config;
	if (!has_unit)
		agent_keep();
	if (!systemd && (init || !config->run)) /* a command that is the machine's purpose runs alone, as in a container */
		services_start();
	if (init)
		become(init, config);
	else if (config->init == INIT_IMAGE)
		fail(config, "the image has no init");
	if (init && has_unit)
		agent_keep(); /* its unit will never be read */
}

int init_main(void)
{
	static struct config config;
	size_t length = 0;
	char *text;

	if (getpid() != 1) {
		say("init runs as process 1 only");
		return 1;
	}
	console_name("banger-init");
	prctl(PR_SET_NAME, "banger-init");
	umask(022);
	mount_early();
	open_console();
	reboot(RB_DISABLE_CAD); /* ctrl-alt-del reaches us as a signal instead of an unsynced reset */
	modules_load("/modules");
	text = load_config(&config, &length);
	if (in_initrd()) {
		if (!switch_to_root(&config))
			fail(&config, "no root filesystem");
	} else {
		prepare_mounted_root(&config);
	}
	mount_early(); /* what the new root could not take over */
	if (!config_store(&config, "", text ? text : "", length))
		say_errno("cannot write '" CONFIG_FILE "'");
	mount_work(&config);
	start_userland(&config);
	supervise(&config);
}

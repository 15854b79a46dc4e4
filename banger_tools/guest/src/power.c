#include "power.h"

#include "console.h"
#include "file.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

static bool is_program(const char *pid)
{
	char path[64], target[2];

	if (pid[0] < '1' || pid[0] > '9' || atoi(pid) == 1 || atoi(pid) == getpid())
		return false;
	snprintf(path, sizeof path, "/proc/%.16s/exe", pid);
	return readlink(path, target, sizeof target) > 0; /* kernel threads and zombies have none */
}

/* Any program left besides us and process 1? (A signal 0 to all would reach the kernel's threads, too.) */
static bool others_live(void)
{
	DIR *folder = opendir("/proc");
	bool found = false;

	for (struct dirent *entry; folder && !found && (entry = readdir(folder));)
		found = is_program(entry->d_name);
	if (folder)
		closedir(folder);
	return found || !folder;
}

static void end_processes(int grace_ms)
{
	int64_t deadline = now_ms() + grace_ms;

	kill(-1, SIGTERM);
	kill(-1, SIGCONT);
	while (now_ms() < deadline) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			continue;
		if (!others_live())
			return;
		sleep_ms(10);
	}
	kill(-1, SIGKILL);
	for (int i = 0; i < 50 && others_live(); i++) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			continue;
		sleep_ms(10);
	}
}

_Noreturn void power_down(bool reset, int grace_ms)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	end_processes(grace_ms);
	sync();
	umount2("/root", MNT_DETACH);
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL); /* EBUSY at worst: the sync above has the data */
	sync();
	reboot(reset ? RB_AUTOBOOT : RB_POWER_OFF);
	say_errno("cannot %s", reset ? "reset" : "power off");
	for (;;)
		pause();
}

#include "power.h"

#include "console.h"
#include "file.h"

#include <errno.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

/* Any process left that a signal to all would reach? */
static bool others_live(void)
{
	return kill(-1, 0) == 0;
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

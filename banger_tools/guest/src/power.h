/* The end of the machine: nothing that was written may be lost, and the VMM must notice. */
#ifndef BANGER_POWER_H
#define BANGER_POWER_H

#include "guest.h"

/* End every other process (TERM, then KILL after grace_ms), sync, remount read-only, and power off or reset. */
_Noreturn void power_down(bool reboot, int grace_ms);

#endif

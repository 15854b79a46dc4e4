/* The steps of init that are files of the image: names, keys, clock. */
#ifndef BANGER_INIT_H
#define BANGER_INIT_H

#include "config.h"

/* Host name, /etc/hosts, resolver, ssh keys, clock. */
void identity_apply(const struct config *config);

/* PID 1 where the image has no init of its own: runs the command of the config if wanted, reaps, ends. */
_Noreturn void supervise(const struct config *config);

/* Keep one agent running for ever, in a child of its own. */
void agent_keep(void);

#endif

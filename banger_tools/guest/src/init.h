/* The steps of init that are files of the image: names, keys, clock. */
#ifndef BANGER_INIT_H
#define BANGER_INIT_H

#include "config.h"

/* Host name, ssh keys, git identity, clock. */
void identity_apply(const struct config *config);

/* /etc/hosts and the resolver; `systemd` says that the image's own init is that. */
void lookup_apply(const struct config *config, bool systemd);

/*
 * What units do under systemd, where there is none: the host keys of sshd before anything can start it, then in the
 * background what the first boot is to install, and sshd where no service manager starts it.
 */
void services_start(void);

/* PID 1 where the image has no init of its own: runs the command of the config if wanted, reaps, ends. */
_Noreturn void supervise(const struct config *config);

/* Keep one agent running for ever, in a child of its own. */
void agent_keep(void);

#endif

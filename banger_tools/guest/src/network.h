/* A static IPv4 address on the first real interface, without any program of the image. */
#ifndef BANGER_NETWORK_H
#define BANGER_NETWORK_H

#include "config.h"

/* Bring up lo, and the address and route of the config; waits at most 5 s for an interface. */
void network_start(const struct config *config);

#endif

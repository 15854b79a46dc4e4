/* What the host and every part of the guest program agree on. */
#ifndef BANGER_GUEST_H
#define BANGER_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef GUEST_VERSION
#define GUEST_VERSION "0"
#endif

#define AGENT_PORT 10240 /* AF_VSOCK; banger_tools/agent holds the same number, a test compares them */
#define AGENT_NAME "banger-agent"
#define SERIAL_PREFIX "banger.agent." /* virtio-serial port names: this and a number */

#define CONFIG_SCHEMA "{\"schema\": \"banger-guest/1\""
#define CONFIG_LIMIT (1024 * 1024)
#define CONFIG_FILE "/run/banger/config.json"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

int init_main(void);
int agent_main(int argc, char **argv);

#endif

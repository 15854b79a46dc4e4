#include "config.h"

#include "console.h"
#include "file.h"
#include "json.h"
#include "text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DISK_WAIT_MS 2000  /* for the first virtio disk of all */
#define SETTLE_WAIT_MS 200 /* for one more disk, once there are some */

void config_defaults(struct config *config)
{
	memset(config, 0, sizeof *config);
	strcpy(config->root, "/dev/vda");
	strcpy(config->root_type, "ext4");
	strcpy(config->cwd, "/");
}

static void complain(const char *key, const char *expected)
{
	say("guest config: '%s' is ignored: it must be %s", key, expected);
}

static void take_text(struct json object, const char *key, char *storage, size_t size)
{
	struct json value = json_member(object, key);
	char kept[512];

	if (!value.start || *value.start == 'n')
		return;
	if (json_text(value, kept, size < sizeof kept ? size : sizeof kept) < 0)
		complain(key, "a string that is not too long");
	else
		strcpy(storage, kept);
}

static void take_flag(struct json object, const char *key, bool *flag)
{
	struct json value = json_member(object, key);

	if (value.start && !json_boolean(value, flag))
		complain(key, "true or false");
}

static void take_list(struct json object, const char *key, char ***list)
{
	struct json value = json_member(object, key);

	if (!value.start || *value.start == 'n')
		return;
	*list = json_copy_list(value);
	if (!*list)
		complain(key, "a list of strings");
}

static void take_time(struct json object, int64_t *seconds)
{
	struct json value = json_member(object, "time");

	if (value.start && !json_integer(value, seconds))
		complain("time", "seconds since 1970");
}

static void take_disks(struct config *config, struct json disks)
{
	if (disks.start && !json_is_object(disks))
		complain("disks", "an object");
	take_text(disks, "root", config->root, sizeof config->root);
	take_text(disks, "type", config->root_type, sizeof config->root_type);
	take_text(disks, "work", config->work, sizeof config->work);
	take_flag(disks, "read_only", &config->read_only);
	take_flag(disks, "grow", &config->grow);
}

static void take_network(struct config *config, struct json network)
{
	struct json servers = json_member(network, "dns");

	if (network.start && !json_is_object(network) && *network.start != 'n')
		complain("network", "an object");
	take_text(network, "address", config->address, sizeof config->address);
	take_text(network, "gateway", config->gateway, sizeof config->gateway);
	for (struct json item = json_next(servers, JSON_NONE); item.start; item = json_next(servers, item)) {
		char *server;

		if (config->dns_count == DNS_LIMIT)
			break;
		server = config->dns[config->dns_count];
		if (json_text(item, server, sizeof config->dns[0]) > 0)
			config->dns_count++;
		else
			complain("dns", "a list of addresses");
	}
}

static void take_git(struct config *config, struct json git)
{
	if (git.start && !json_is_object(git) && *git.start != 'n')
		complain("git", "an object");
	take_text(git, "name", config->git_name, sizeof config->git_name);
	take_text(git, "email", config->git_email, sizeof config->git_email);
}

static void take_choices(struct config *config, struct json object)
{
	char init[16] = "auto", power[16] = "off";

	take_text(object, "init", init, sizeof init);
	take_text(object, "power", power, sizeof power);
	if (strcmp(init, "image") == 0)
		config->init = INIT_IMAGE;
	else if (strcmp(init, "banger") == 0)
		config->init = INIT_BANGER;
	else if (strcmp(init, "auto") != 0)
		complain("init", "auto, image or banger");
	if (strcmp(power, "reboot") == 0)
		config->reboot = true;
	else if (strcmp(power, "off") != 0)
		complain("power", "off or reboot");
}

bool config_parse(struct config *config, const char *text, size_t length)
{
	struct json object = json_check(text, length);

	if (!json_is_object(object)) {
		say("guest config: no JSON object; the defaults are used");
		return false;
	}
	take_text(object, "hostname", config->hostname, sizeof config->hostname);
	take_disks(config, json_member(object, "disks"));
	take_network(config, json_member(object, "network"));
	take_time(object, &config->time);
	take_choices(config, object);
	take_flag(object, "run", &config->run);
	take_list(object, "argv", &config->argv);
	take_list(object, "env", &config->env);
	take_text(object, "user", config->user, sizeof config->user);
	take_text(object, "cwd", config->cwd, sizeof config->cwd);
	take_list(object, "ssh_keys", &config->ssh_keys);
	take_git(config, json_member(object, "git"));
	take_text(object, "token", config->token, sizeof config->token);
	return true;
}

static char *trimmed(char *text, ssize_t have, size_t *length)
{
	while (have > 0 && (text[have - 1] == '\n' || text[have - 1] == '\0'))
		have--;
	*length = (size_t)have;
	return text;
}

char *config_from_file(const char *path, size_t *length)
{
	char *text = malloc(CONFIG_LIMIT);
	ssize_t have;

	if (!text)
		return NULL;
	have = file_read(path, text, CONFIG_LIMIT);
	if (have < 0) {
		free(text);
		return NULL;
	}
	return trimmed(text, have, length);
}

static bool begins_with_schema(const char *device)
{
	char head[sizeof CONFIG_SCHEMA];

	return file_read(device, head, sizeof head) == sizeof head - 1 && strcmp(head, CONFIG_SCHEMA) == 0;
}

/* Look at every virtio disk once; the path of the config disk in `device`, and how many disks there are. */
static bool scan_disks(char *device, size_t size, int *disks)
{
	bool found = false;

	*disks = 0;
	for (char letter = 'a'; letter <= 'z' && !found; letter++) {
		snprintf(device, size, "/dev/vd%c", letter);
		if (access(device, F_OK) < 0)
			continue;
		++*disks;
		found = begins_with_schema(device);
	}
	return found;
}

char *config_from_disk(size_t *length)
{
	char device[16];
	int disks;

	for (int64_t waited = 0; waited <= DISK_WAIT_MS; waited += 20) {
		if (scan_disks(device, sizeof device, &disks))
			return config_from_file(device, length);
		if (disks > 0 && waited >= SETTLE_WAIT_MS)
			break;
		sleep_ms(20);
	}
	return NULL;
}

static void put_variable(struct text *text, const char *name, const char *value)
{
	text_format(text, "%s=", name);
	text_shell(text, value);
	text_put(text, "\n");
}

static void describe_network(const struct config *config, struct text *text)
{
	char servers[DNS_LIMIT * 50] = "";
	struct text list = TEXT_IN(servers);

	for (size_t i = 0; i < config->dns_count; i++)
		text_format(&list, "%s%s", i ? " " : "", config->dns[i]);
	put_variable(text, "BANGER_HOSTNAME", config->hostname);
	put_variable(text, "BANGER_ADDRESS", config->address);
	put_variable(text, "BANGER_GATEWAY", config->gateway);
	put_variable(text, "BANGER_DNS", servers);
}

bool config_store(const struct config *config, const char *root, const char *text, size_t length)
{
	char path[300], storage[2048];
	struct text variables = TEXT_IN(storage);

	snprintf(path, sizeof path, "%s/run/banger", root);
	if (make_folders(path, 0755) < 0)
		return false;
	snprintf(path, sizeof path, "%s" CONFIG_FILE, root);
	if (length > 0 && file_write(path, text, length, 0600) < 0)
		return false;
	describe_network(config, &variables);
	snprintf(path, sizeof path, "%s/run/banger/network.env", root);
	return file_write(path, storage, variables.length, 0644) == 0;
}

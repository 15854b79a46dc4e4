/*
 * Feeds the guest program's parsers under sanitizers. Standard input holds records: one byte that names the
 * parser, the length (32 bits, host order), the bytes. Each goes into memory of exactly its size, so that the
 * first byte read too far is seen.
 */
#include "../banger_tools/guest/src/config.h"
#include "../banger_tools/guest/src/exec.h"
#include "../banger_tools/guest/src/http.h"
#include "../banger_tools/guest/src/json.h"
#include "../banger_tools/guest/src/serial.h"
#include "../banger_tools/guest/src/tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void walk(struct json value, int depth)
{
	char text[64];
	int64_t number;
	bool flag;

	json_free_list(json_copy_list(value));
	free(json_copy(value));
	json_text(value, text, sizeof text);
	json_integer(value, &number);
	json_boolean(value, &flag);
	json_member(value, "argv");
	for (struct json item = json_next(value, JSON_NONE); item.start && depth < 4; item = json_next(value, item))
		walk(item, depth + 1);
}

static void feed_json(const char *bytes, size_t length)
{
	static struct config config;

	walk(json_check(bytes, length), 0);
	config_defaults(&config);
	config_parse(&config, bytes, length);
	json_free_list(config.argv);
	json_free_list(config.env);
	json_free_list(config.ssh_keys);
}

static void feed_http(const char *bytes, size_t length)
{
	static struct request request;
	char value[100];
	size_t used;

	if (http_parse(bytes, length, &request, &used) == PARSE_DONE) {
		if (used > length)
			abort();
		http_query(&request, "path", value, sizeof value);
		http_path_is(&request, "/files");
	}
}

static void feed_frames(const char *bytes, size_t length)
{
	struct frame frame;

	for (size_t at = 0; at < length;) {
		ssize_t size = frame_parse((const unsigned char *)bytes + at, length - at, &frame);

		if (size <= 0)
			return;
		if (frame.length > 0 && frame.payload[frame.length - 1] == 1)
			putchar('.');
		at += (size_t)size;
	}
}

static void feed_serial(const char *bytes, size_t length)
{
	struct decoder decoder = { 0 };

	for (size_t i = 0; i < length; i++) {
		unsigned char byte = (unsigned char)bytes[i];

		if (decoder_take(&decoder, &byte) == EVENT_HELLO && strlen(decoder.control + 1) != TOKEN_LENGTH)
			abort();
	}
}

static void feed_tar(const char *bytes, size_t length)
{
	static struct tar_overrides overrides;
	static struct tar_entry entry;
	static unsigned char blocks[8 * PATH_MAX];

	memset(&overrides, 0, sizeof overrides);
	memset(&entry, 0, sizeof entry);
	tar_take_pax(&overrides, bytes, length);
	if (length >= TAR_BLOCK && tar_parse((const unsigned char *)bytes, &entry)) {
		tar_apply(&overrides, &entry);
		tar_format(&entry, blocks, sizeof blocks);
	}
}

static void feed(int parser, const char *bytes, size_t length)
{
	switch (parser) {
	case 'j':
		feed_json(bytes, length);
		break;
	case 'h':
		feed_http(bytes, length);
		break;
	case 'f':
		feed_frames(bytes, length);
		break;
	case 's':
		feed_serial(bytes, length);
		break;
	default:
		feed_tar(bytes, length);
	}
}

int main(void)
{
	for (int parser = getchar(); parser != EOF; parser = getchar()) {
		uint32_t length;
		char *bytes;

		if (fread(&length, sizeof length, 1, stdin) != 1 || length > 1 << 20)
			return 1;
		bytes = malloc(length ? length : 1);
		if (!bytes || fread(bytes, 1, length, stdin) != length)
			return 1;
		feed(parser, bytes, length);
		free(bytes);
	}
	return 0;
}

#include "tar.h"

#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Offsets and lengths of ustar's fields. */
enum {
	NAME = 0, NAME_LENGTH = 100, MODE = 100, UID = 108, GID = 116, NUMBER_LENGTH = 8, SIZE = 124, SIZE_LENGTH = 12,
	MTIME = 136, CHECKSUM = 148, TYPE = 156, LINK = 157, MAGIC = 257, MAJOR = 329, MINOR = 337,
	PREFIX = 345, PREFIX_LENGTH = 155,
};

bool tar_is_end(const unsigned char *block)
{
	for (int i = 0; i < TAR_BLOCK; i++) {
		if (block[i])
			return false;
	}
	return true;
}

/* Octal, or base 256 when the first bit is set (GNU, for what octal cannot hold). */
static bool parse_number(const unsigned char *field, size_t length, int64_t *number)
{
	uint64_t value = 0;
	size_t i = 0;

	if (field[0] & 0x80) {
		value = field[0] & 0x40 ? UINT64_MAX : 0;
		value = value << 6 | (field[0] & 0x3f);
		for (i = 1; i < length; i++)
			value = value << 8 | field[i];
		*number = (int64_t)value;
		return true;
	}
	while (i < length && field[i] == ' ')
		i++;
	for (; i < length && field[i] >= '0' && field[i] <= '7'; i++)
		value = value << 3 | (uint64_t)(field[i] - '0');
	*number = (int64_t)value;
	return i == length || field[i] == ' ' || field[i] == '\0';
}

static unsigned checksum(const unsigned char *block)
{
	unsigned sum = 0;

	for (int i = 0; i < TAR_BLOCK; i++)
		sum += i >= CHECKSUM && i < CHECKSUM + 8 ? ' ' : block[i];
	return sum;
}

static void copy_field(char *to, const unsigned char *block, size_t offset, size_t length)
{
	memcpy(to, block + offset, length);
	to[length] = '\0';
}

static void parse_names(const unsigned char *block, struct tar_entry *entry)
{
	size_t used = 0;

	if (memcmp(block + MAGIC, "ustar\0", 6) == 0 && block[PREFIX]) {
		copy_field(entry->path, block, PREFIX, PREFIX_LENGTH);
		used = strlen(entry->path);
		entry->path[used++] = '/';
	}
	copy_field(entry->path + used, block, NAME, NAME_LENGTH);
	copy_field(entry->target, block, LINK, NAME_LENGTH);
}

bool tar_parse(const unsigned char *block, struct tar_entry *entry)
{
	int64_t sum, mode, uid, gid, major = 0, minor = 0;

	if (!parse_number(block + CHECKSUM, 8, &sum) || sum != (int64_t)checksum(block))
		return false;
	if (!parse_number(block + MODE, NUMBER_LENGTH, &mode) || !parse_number(block + UID, NUMBER_LENGTH, &uid) ||
	    !parse_number(block + GID, NUMBER_LENGTH, &gid) || !parse_number(block + SIZE, SIZE_LENGTH, &entry->size) ||
	    !parse_number(block + MTIME, SIZE_LENGTH, &entry->mtime))
		return false;
	if (!parse_number(block + MAJOR, NUMBER_LENGTH, &major) || !parse_number(block + MINOR, NUMBER_LENGTH, &minor))
		return false;
	if (entry->size < 0 || uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return false;
	parse_names(block, entry);
	entry->type = block[TYPE] == '\0' || block[TYPE] == '7' ? '0' : (char)block[TYPE];
	entry->mode = (mode_t)mode & 07777;
	entry->uid = (uint32_t)uid;
	entry->gid = (uint32_t)gid;
	entry->major = (uint32_t)major;
	entry->minor = (uint32_t)minor;
	return true;
}

static bool take_name(char *to, bool *has, const char *value, size_t length)
{
	if (length >= PATH_MAX || memchr(value, '\0', length))
		return false;
	memcpy(to, value, length);
	to[length] = '\0';
	*has = true;
	return true;
}

static bool take_number(int64_t *to, bool *has, const char *value, size_t length)
{
	char digits[32], *end;

	if (length == 0 || length >= sizeof digits)
		return false;
	memcpy(digits, value, length);
	digits[length] = '\0';
	*to = strtoll(digits, &end, 10);
	*has = true;
	return *end == '\0' || *end == '.'; /* times have fractions; we keep seconds */
}

static bool take_record(struct tar_overrides *to, const char *key, const char *value, size_t length)
{
	if (strcmp(key, "path") == 0)
		return take_name(to->path, &to->has_path, value, length);
	if (strcmp(key, "linkpath") == 0)
		return take_name(to->target, &to->has_target, value, length);
	if (strcmp(key, "size") == 0)
		return take_number(&to->size, &to->has_size, value, length) && to->size >= 0;
	if (strcmp(key, "uid") == 0)
		return take_number(&to->uid, &to->has_uid, value, length) && to->uid >= 0 && to->uid < UINT32_MAX;
	if (strcmp(key, "gid") == 0)
		return take_number(&to->gid, &to->has_gid, value, length) && to->gid >= 0 && to->gid < UINT32_MAX;
	if (strcmp(key, "mtime") == 0)
		return take_number(&to->mtime, &to->has_mtime, value, length);
	return strncmp(key, "GNU.sparse.", 11) != 0; /* its data is no plain file */
}

struct record {
	const char *key, *value;
	size_t key_length, value_length;
};

/* Cut "LENGTH KEY=VALUE\n", the length counting itself, off the front; false when it is malformed. */
static bool next_record(const char **records, size_t *length, struct record *record)
{
	const char *start = *records, *key = memchr(start, ' ', *length < 21 ? *length : 21), *end;
	unsigned long long size = 0;

	for (const char *at = start; key && at < key; at++)
		size = *at >= '0' && *at <= '9' ? size * 10 + (unsigned)(*at - '0') : UINT32_MAX;
	if (!key || size > *length || size < (size_t)(key - start) + 4 || start[size - 1] != '\n')
		return false;
	end = start + size - 1;
	record->key = key + 1;
	record->value = memchr(record->key, '=', (size_t)(end - record->key));
	if (!record->value)
		return false;
	record->key_length = (size_t)(record->value++ - record->key);
	record->value_length = (size_t)(end - record->value);
	*records += size;
	*length -= size;
	return true;
}

bool tar_take_pax(struct tar_overrides *overrides, const char *records, size_t length)
{
	while (length > 0) {
		struct record record;
		char name[128];

		if (!next_record(&records, &length, &record))
			return false;
		if (record.key_length >= sizeof name)
			continue; /* longer than any that we know; attributes are looked for apart */
		snprintf(name, sizeof name, "%.*s", (int)record.key_length, record.key);
		if (!take_record(overrides, name, record.value, record.value_length))
			return false;
	}
	return true;
}

/* GNU tar writes "=" of an attribute's name as %3D, and "%" as %25. */
static bool decode_name(const char *from, size_t length, char *to, size_t size)
{
	const char *end = from + length;

	for (; from < end && size > 1; size--) {
		bool is_mark = end - from >= 3 && (memcmp(from, "%3D", 3) == 0 || memcmp(from, "%25", 3) == 0);

		*to++ = !is_mark ? *from : from[1] == '3' ? '=' : '%';
		from += is_mark ? 3 : 1;
	}
	*to = '\0';
	return from == end;
}

bool tar_next_xattr(const char **records, size_t *length, struct tar_xattr *xattr)
{
	const size_t prefix = strlen(TAR_XATTR);
	struct record record;

	while (*length > 0 && next_record(records, length, &record)) {
		if (record.key_length <= prefix || memcmp(record.key, TAR_XATTR, prefix) != 0)
			continue;
		if (!decode_name(record.key + prefix, record.key_length - prefix, xattr->name, sizeof xattr->name))
			continue; /* longer than the kernel lets a name be */
		xattr->value = record.value;
		xattr->length = record.value_length;
		return true;
	}
	return false;
}

void tar_apply(const struct tar_overrides *overrides, struct tar_entry *entry)
{
	if (overrides->has_path)
		strcpy(entry->path, overrides->path);
	if (overrides->has_target)
		strcpy(entry->target, overrides->target);
	if (overrides->has_size)
		entry->size = overrides->size;
	if (overrides->has_uid)
		entry->uid = (uint32_t)overrides->uid;
	if (overrides->has_gid)
		entry->gid = (uint32_t)overrides->gid;
	if (overrides->has_mtime)
		entry->mtime = overrides->mtime;
}

static void put_octal(unsigned char *field, size_t length, uint64_t value)
{
	char digits[32];

	snprintf(digits, sizeof digits, "%0*llo", (int)length - 1, (unsigned long long)value);
	memcpy(field, digits, length);
}

static void seal(unsigned char *block)
{
	char digits[8];

	memcpy(block + MAGIC, "ustar\00000", 8);
	snprintf(digits, sizeof digits, "%06o", checksum(block));
	memcpy(block + CHECKSUM, digits, 7);
	block[CHECKSUM + 7] = ' ';
}

/* Whether a value fits the octal field; what does not goes into a pax record, and a zero here. */
static uint64_t fitting(int64_t value, size_t length)
{
	return value >= 0 && (uint64_t)value < 1ULL << 3 * (length - 1) ? (uint64_t)value : 0;
}

static void put_name(unsigned char *block, size_t offset, const char *name)
{
	size_t length = strlen(name);

	memcpy(block + offset, name, length < NAME_LENGTH ? length : NAME_LENGTH);
}

static void format_block(const struct tar_entry *entry, unsigned char *block)
{
	memset(block, 0, TAR_BLOCK);
	put_name(block, NAME, entry->path);
	put_name(block, LINK, entry->target);
	put_octal(block + MODE, NUMBER_LENGTH, entry->mode & 07777);
	put_octal(block + UID, NUMBER_LENGTH, fitting(entry->uid, NUMBER_LENGTH));
	put_octal(block + GID, NUMBER_LENGTH, fitting(entry->gid, NUMBER_LENGTH));
	put_octal(block + SIZE, SIZE_LENGTH, fitting(entry->size, SIZE_LENGTH));
	put_octal(block + MTIME, SIZE_LENGTH, fitting(entry->mtime, SIZE_LENGTH));
	put_octal(block + MAJOR, NUMBER_LENGTH, fitting(entry->major, NUMBER_LENGTH));
	put_octal(block + MINOR, NUMBER_LENGTH, fitting(entry->minor, NUMBER_LENGTH));
	block[TYPE] = (unsigned char)entry->type;
	seal(block);
}

static void put_record(struct text *text, const char *key, const char *value, size_t length)
{
	size_t rest = strlen(key) + length + 3, digits = 1;

	for (size_t limit = 10; rest + digits >= limit; limit *= 10)
		digits++;
	text_format(text, "%zu ", rest + digits);
	text_put(text, key);
	text_put(text, "=");
	text_bytes(text, value, length);
	text_put(text, "\n");
}

void tar_put_xattr(struct text *records, const char *name, const char *value, size_t length)
{
	char key[sizeof TAR_XATTR + 3 * 256];
	struct text text = TEXT_IN(key);

	text_put(&text, TAR_XATTR);
	for (; *name; name++) {
		if (*name == '=' || *name == '%')
			text_put(&text, *name == '=' ? "%3D" : "%25");
		else
			text_bytes(&text, name, 1);
	}
	put_record(records, key, value, length);
}

static void put_number_record(struct text *text, const char *key, int64_t value, size_t length)
{
	char digits[32];

	if (value >= 0 && (uint64_t)value < 1ULL << 3 * (length - 1))
		return;
	snprintf(digits, sizeof digits, "%lld", (long long)value);
	put_record(text, key, digits, strlen(digits));
}

static void put_records(struct text *text, const struct tar_entry *entry)
{
	if (strlen(entry->path) > NAME_LENGTH)
		put_record(text, "path", entry->path, strlen(entry->path));
	if (strlen(entry->target) > NAME_LENGTH)
		put_record(text, "linkpath", entry->target, strlen(entry->target));
	put_number_record(text, "uid", entry->uid, NUMBER_LENGTH);
	put_number_record(text, "gid", entry->gid, NUMBER_LENGTH);
	put_number_record(text, "size", entry->size, SIZE_LENGTH);
	put_number_record(text, "mtime", entry->mtime, SIZE_LENGTH);
	if (entry->xattrs_length > 0)
		text_bytes(text, entry->xattrs, entry->xattrs_length);
}

static void format_extension(size_t length, unsigned char *block)
{
	static struct tar_entry extension = { .path = "pax", .type = 'x', .mode = 0644 };

	extension.size = (int64_t)length;
	format_block(&extension, block);
}

size_t tar_format(const struct tar_entry *entry, unsigned char *blocks, size_t size)
{
	/* the records' place: behind their own header, and before padding and the entry's header */
	struct text records = { (char *)blocks + TAR_BLOCK, 0, size - 3 * TAR_BLOCK, false };
	size_t used = 0;

	if (size <= 3 * TAR_BLOCK)
		return 0;
	put_records(&records, entry);
	if (records.overflow)
		return 0;
	if (records.length > 0) {
		used = TAR_BLOCK + (records.length + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
		memset(blocks + TAR_BLOCK + records.length, 0, used - TAR_BLOCK - records.length);
		format_extension(records.length, blocks);
	}
	format_block(entry, blocks + used);
	return used + TAR_BLOCK;
}

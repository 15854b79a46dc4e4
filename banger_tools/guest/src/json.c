#include "json.h"

#include <stdlib.h>
#include <string.h>

#define DEPTH_LIMIT 16

static const char *skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
		at++;
	return at;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static int hex_value(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* The 16 bits of four hex digits, -1 when they are not there. */
static long hex_quad(const char *at, const char *end)
{
	long value = 0;

	if (end - at < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int digit = hex_value(at[i]);

		if (digit < 0)
			return -1;
		value = value << 4 | digit;
	}
	return value;
}

/* Each skip_… returns the byte behind the thing at `at`, or NULL when it is malformed. */
static const char *skip_string(const char *at, const char *end)
{
	if (at >= end || *at != '"')
		return NULL;
	for (at++; at < end && *at != '"'; at++) {
		if ((unsigned char)*at < 0x20)
			return NULL;
		if (*at != '\\')
			continue;
		if (++at >= end || !memchr("\"\\/bfnrtu", *at, 9))
			return NULL;
		if (*at == 'u' && hex_quad(at + 1, end) < 0)
			return NULL;
	}
	return at < end ? at + 1 : NULL;
}

static const char *skip_digits(const char *at, const char *end)
{
	const char *first = at;

	while (at < end && is_digit(*at))
		at++;
	return at > first ? at : NULL;
}

static const char *skip_number(const char *at, const char *end)
{
	if (at < end && *at == '-')
		at++;
	at = at < end && *at == '0' ? at + 1 : skip_digits(at, end);
	if (at && at < end && *at == '.')
		at = skip_digits(at + 1, end);
	if (at && at < end && (*at == 'e' || *at == 'E')) {
		at++;
		if (at < end && (*at == '+' || *at == '-'))
			at++;
		at = skip_digits(at, end);
	}
	return at;
}

static const char *skip_word(const char *at, const char *end, const char *word)
{
	size_t length = strlen(word);

	return (size_t)(end - at) >= length && memcmp(at, word, length) == 0 ? at + length : NULL;
}

static const char *skip_value(const char *at, const char *end, int depth);

static const char *skip_element(const char *at, const char *end, int depth, bool named)
{
	if (named) {
		at = skip_string(at, end);
		if (!at)
			return NULL;
		at = skip_space(at, end);
		if (at >= end || *at != ':')
			return NULL;
		at++;
	}
	return skip_value(at, end, depth);
}

static const char *skip_container(const char *at, const char *end, int depth)
{
	bool named = *at == '{';
	char close = named ? '}' : ']';

	at = skip_space(at + 1, end);
	if (at < end && *at == close)
		return at + 1;
	while (at) {
		at = skip_element(skip_space(at, end), end, depth, named);
		if (!at)
			return NULL;
		at = skip_space(at, end);
		if (at >= end)
			return NULL;
		if (*at == close)
			return at + 1;
		if (*at++ != ',')
			return NULL;
	}
	return NULL;
}

static const char *skip_value(const char *at, const char *end, int depth)
{
	at = skip_space(at, end);
	if (at >= end || depth > DEPTH_LIMIT)
		return NULL;
	switch (*at) {
	case '{':
	case '[':
		return skip_container(at, end, depth + 1);
	case '"':
		return skip_string(at, end);
	case 't':
		return skip_word(at, end, "true");
	case 'f':
		return skip_word(at, end, "false");
	case 'n':
		return skip_word(at, end, "null");
	default:
		return skip_number(at, end);
	}
}

static struct json value_at(const char *at, const char *end)
{
	at = skip_space(at, end);
	return (struct json){ at, skip_value(at, end, 0) };
}

struct json json_check(const char *text, size_t length)
{
	const char *end = text + length;
	struct json value = value_at(text, end);

	if (!value.end || skip_space(value.end, end) != end)
		return JSON_NONE;
	return value;
}

bool json_is_object(struct json value)
{
	return value.start && *value.start == '{';
}

bool json_is_array(struct json value)
{
	return value.start && *value.start == '[';
}

bool json_is_text(struct json value)
{
	return value.start && *value.start == '"';
}

struct json json_member(struct json object, const char *name)
{
	struct json found = JSON_NONE;
	const char *at;

	if (!json_is_object(object))
		return found;
	at = skip_space(object.start + 1, object.end);
	while (*at == '"') {
		char key[64];
		struct json label = value_at(at, object.end);
		struct json value = value_at(skip_space(label.end, object.end) + 1, object.end);

		if (json_text(label, key, sizeof key) >= 0 && strcmp(key, name) == 0)
			found = value;
		at = skip_space(value.end, object.end);
		if (*at != ',')
			break;
		at = skip_space(at + 1, object.end);
	}
	return found;
}

struct json json_next(struct json array, struct json previous)
{
	const char *at;

	if (!json_is_array(array))
		return JSON_NONE;
	at = skip_space(previous.start ? previous.end : array.start + 1, array.end);
	if (previous.start && *at == ',')
		at = skip_space(at + 1, array.end);
	if (*at == ']')
		return JSON_NONE;
	return value_at(at, array.end);
}

size_t json_count(struct json array)
{
	size_t count = 0;

	for (struct json item = json_next(array, JSON_NONE); item.start; item = json_next(array, item))
		count++;
	return count;
}

static size_t encode_utf8(uint32_t point, char *out)
{
	if (point < 0x80) {
		out[0] = (char)point;
		return 1;
	}
	if (point < 0x800) {
		out[0] = (char)(0xc0 | point >> 6);
		out[1] = (char)(0x80 | (point & 0x3f));
		return 2;
	}
	if (point < 0x10000) {
		out[0] = (char)(0xe0 | point >> 12);
		out[1] = (char)(0x80 | (point >> 6 & 0x3f));
		out[2] = (char)(0x80 | (point & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | point >> 18);
	out[1] = (char)(0x80 | (point >> 12 & 0x3f));
	out[2] = (char)(0x80 | (point >> 6 & 0x3f));
	out[3] = (char)(0x80 | (point & 0x3f));
	return 4;
}

/*
 * The code point of the \uXXXX whose digits start at *at (moved behind them). Half a surrogate pair from
 * U+DC80 on is how Python's surrogateescape spells a byte that is no UTF-8: the caller turns it into that byte.
 */
static uint32_t unescape_point(const char **at, const char *end)
{
	uint32_t point = (uint32_t)hex_quad(*at, end);

	*at += 4;
	if (point >= 0xd800 && point < 0xdc00 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
		long low = hex_quad(*at + 2, end);

		if (low >= 0xdc00 && low < 0xe000) {
			*at += 6;
			point = 0x10000 + ((point - 0xd800) << 10) + (uint32_t)(low - 0xdc00);
		}
	}
	return point;
}

/* Decode the escape behind a backslash; the number of bytes put out. */
static size_t unescape(const char **at, const char *end, char *out)
{
	static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
	char kind = *(*at)++;
	const char *plain = memchr(from, kind, sizeof from - 1);
	uint32_t point;

	if (kind != 'u') {
		out[0] = plain ? to[plain - from] : kind;
		return 1;
	}
	point = unescape_point(at, end);
	if (point >= 0xdc80 && point < 0xdd00) {
		out[0] = (char)(point - 0xdc00);
		return 1;
	}
	return encode_utf8(point, out);
}

long json_text(struct json value, char *storage, size_t size)
{
	size_t length = 0;

	if (!json_is_text(value))
		return -1;
	for (const char *at = value.start + 1; *at != '"';) {
		char piece[4];
		size_t bytes = 1;

		if (*at == '\\') {
			at++;
			bytes = unescape(&at, value.end, piece);
		} else {
			piece[0] = *at++;
		}
		if (piece[0] == '\0' || length + bytes >= size)
			return -1;
		memcpy(storage + length, piece, bytes);
		length += bytes;
	}
	if (length >= size)
		return -1;
	storage[length] = '\0';
	return (long)length;
}

char *json_copy(struct json value)
{
	size_t size;
	char *copy;

	if (!json_is_text(value))
		return NULL;
	size = (size_t)(value.end - value.start);
	copy = malloc(size);
	if (copy && json_text(value, copy, size) < 0) {
		free(copy);
		copy = NULL;
	}
	return copy;
}

char **json_copy_list(struct json array)
{
	char **list;
	size_t count = 0;

	if (!json_is_array(array))
		return NULL;
	list = calloc(json_count(array) + 1, sizeof *list);
	if (!list)
		return NULL;
	for (struct json item = json_next(array, JSON_NONE); item.start; item = json_next(array, item)) {
		list[count] = json_copy(item);
		if (!list[count++]) {
			json_free_list(list);
			return NULL;
		}
	}
	return list;
}

void json_free_list(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

bool json_integer(struct json value, int64_t *number)
{
	const char *at = value.start;
	bool negative;
	int64_t sum = 0;

	if (!at || (*at != '-' && !is_digit(*at)))
		return false;
	negative = *at == '-';
	for (at += negative; at < value.end; at++) {
		if (!is_digit(*at) || sum > (INT64_MAX - 9) / 10)
			return false;
		sum = sum * 10 + (*at - '0');
	}
	*number = negative ? -sum : sum;
	return true;
}

bool json_boolean(struct json value, bool *flag)
{
	if (!value.start || (*value.start != 't' && *value.start != 'f'))
		return false;
	*flag = *value.start == 't';
	return true;
}

/*
 * A reader of JSON (RFC 8259) over one buffer, without a tree. json_check walks the whole text once; the
 * others may only be given values of a text that passed it.
 */
#ifndef BANGER_JSON_H
#define BANGER_JSON_H

#include "guest.h"

/* One value inside the text: start at its first byte; NULL start = no such value. */
struct json {
	const char *start;
	const char *end;
};

#define JSON_NONE ((struct json){ NULL, NULL })

/* The value of the whole text, or JSON_NONE when it is no JSON (or nests deeper than 16). */
struct json json_check(const char *text, size_t length);

bool json_is_object(struct json value);
bool json_is_array(struct json value);
bool json_is_text(struct json value);

/* The last member of that name; JSON_NONE when the value is no object or has none. */
struct json json_member(struct json object, const char *name);

/* The next element of an array (after previous; the first after JSON_NONE); JSON_NONE at the end. */
struct json json_next(struct json array, struct json previous);
size_t json_count(struct json array);

/* Decode a string; -1 when it is none, holds a NUL or needs more than size bytes, else its length. */
long json_text(struct json value, char *storage, size_t size);

/* The same in memory of its own, to be freed by the caller; NULL when it is no such string or memory is out. */
char *json_copy(struct json value);

/* An array of strings as a NULL-terminated list; NULL when it is anything else. Freed with json_free_list. */
char **json_copy_list(struct json array);
void json_free_list(char **list);

bool json_integer(struct json value, int64_t *number);
bool json_boolean(struct json value, bool *flag);

#endif

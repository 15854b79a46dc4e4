/* Building text in fixed storage: never past its end, and an overflow is remembered instead of cut silently. */
#ifndef BANGER_TEXT_H
#define BANGER_TEXT_H

#include "guest.h"

struct text {
	char *bytes;
	size_t length;
	size_t size;
	bool overflow;
};

#define TEXT_IN(storage) ((struct text){ (storage), 0, sizeof(storage), false })

void text_bytes(struct text *text, const char *bytes, size_t length);
void text_put(struct text *text, const char *string);
void text_format(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A JSON string with its quotes; a byte that is no UTF-8 goes as \udc80 to \udcff, as json.h takes it back. */
void text_json(struct text *text, const char *string);

/* A value of git's configuration, in double quotes. */
void text_git(struct text *text, const char *string);

/* One word for a POSIX shell, in single quotes. */
void text_shell(struct text *text, const char *string);

#endif

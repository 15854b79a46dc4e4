#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void text_bytes(struct text *text, const char *bytes, size_t length)
{
	if (text->overflow || length >= text->size - text->length) {
		text->overflow = true;
		return;
	}
	memcpy(text->bytes + text->length, bytes, length);
	text->length += length;
	text->bytes[text->length] = '\0';
}

void text_put(struct text *text, const char *string)
{
	text_bytes(text, string, strlen(string));
}

void text_format(struct text *text, const char *format, ...)
{
	char piece[512];
	va_list values;
	int length;

	va_start(values, format);
	length = vsnprintf(piece, sizeof piece, format, values);
	va_end(values);
	if (length < 0 || (size_t)length >= sizeof piece)
		text->overflow = true;
	else
		text_bytes(text, piece, (size_t)length);
}

void text_json(struct text *text, const char *string)
{
	text_put(text, "\"");
	for (const unsigned char *at = (const unsigned char *)string; *at; at++) {
		if (*at == '"' || *at == '\\')
			text_format(text, "\\%c", *at);
		else if (*at < 0x20)
			text_format(text, "\\u%04x", *at);
		else
			text_bytes(text, (const char *)at, 1);
	}
	text_put(text, "\"");
}

void text_git(struct text *text, const char *string)
{
	text_put(text, "\"");
	for (const char *at = string; *at; at++) {
		if (*at == '"' || *at == '\\')
			text_format(text, "\\%c", *at);
		else if (*at == '\n')
			text_put(text, "\\n");
		else
			text_bytes(text, at, 1);
	}
	text_put(text, "\"");
}

void text_shell(struct text *text, const char *string)
{
	text_put(text, "'");
	for (const char *at = string; *at; at++) {
		if (*at == '\'')
			text_put(text, "'\\''");
		else
			text_bytes(text, at, 1);
	}
	text_put(text, "'");
}

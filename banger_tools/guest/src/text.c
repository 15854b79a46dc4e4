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

/* The length of the UTF-8 character at the front (RFC 3629); 0 when there is none. */
static size_t utf8_length(const unsigned char *at)
{
	size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
	unsigned char least = at[0] == 0xe0 ? 0xa0 : at[0] == 0xf0 ? 0x90 : 0x80; /* below: a longer form than needed */
	unsigned char most = at[0] == 0xed ? 0x9f : at[0] == 0xf4 ? 0x8f : 0xbf;  /* above: a surrogate, or none at all */

	if (length > 1 && (at[1] < least || at[1] > most))
		return 0;
	for (size_t i = 2; i < length; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	}
	return length;
}

void text_json(struct text *text, const char *string)
{
	const unsigned char *at = (const unsigned char *)string;

	text_put(text, "\"");
	for (size_t length; *at; at += length) {
		length = utf8_length(at);
		if (*at == '"' || *at == '\\')
			text_format(text, "\\%c", *at);
		else if (*at < 0x20)
			text_format(text, "\\u%04x", *at);
		else if (length > 0)
			text_bytes(text, (const char *)at, length);
		else
			text_format(text, "\\udc%02x", *at);
		length += length == 0;
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

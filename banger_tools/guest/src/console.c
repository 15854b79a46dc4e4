#include "console.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *speaker = "banger-guest";

void console_name(const char *name)
{
	speaker = name;
}

/* One write a line: lines of several processes must not mix on a serial console. */
static void say_list(const char *suffix, const char *format, va_list values)
{
	char line[1024];
	int length = snprintf(line, sizeof line, "%s: ", speaker);

	length += vsnprintf(line + length, sizeof line - (size_t)length, format, values);
	if (length > (int)sizeof line - 1)
		length = (int)sizeof line - 1;
	length += snprintf(line + length, sizeof line - (size_t)length, "%s", suffix);
	if (length > (int)sizeof line - 2)
		length = (int)sizeof line - 2;
	line[length++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)length) < 0)
		return; /* nobody is left to tell */
}

void say(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	say_list("", format, values);
	va_end(values);
}

void say_errno(const char *format, ...)
{
	va_list values;
	char suffix[128];

	snprintf(suffix, sizeof suffix, ": %s", strerror(errno));
	va_start(values, format);
	say_list(suffix, format, values);
	va_end(values);
}

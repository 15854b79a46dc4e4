/* Messages for people: on the console as init, on standard error as agent. */
#ifndef BANGER_CONSOLE_H
#define BANGER_CONSOLE_H

void console_name(const char *name);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Like say, with the text of errno behind it. */
void say_errno(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif

#include "log.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <time.h>
#include <unistd.h>

static enum config_log type = LOG_TO_TERM;
static int level_now = LEVEL_WARN;
static int file = -1;

void log_open(const struct config *config)
{
    type = config->log_type;
    level_now = config->log_level;
    if (type != LOG_TO_FILE || file >= 0) {
        return;
    }
    file = open(config->log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) {
        type = LOG_TO_SYSLOG; /* a worker that may not write there still has something to say */
    }
}

void log_line(int level, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_arguments(level, format, arguments);
    va_end(arguments);
}

void log_arguments(int level, const char *format, va_list arguments)
{
    static const char *const names[] = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};
    static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG, LOG_DEBUG};
    char text[512], line[640];
    if (level > level_now) {
        return;
    }
    vsnprintf(text, sizeof text, format, arguments);
    if (type == LOG_TO_SYSLOG) {
        syslog(LOG_USER | priorities[level], "hsmsim_pkcs11: %s", text);
        return;
    }
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t len = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &parts);
    int more = snprintf(line + len, sizeof line - len, ".%03ldZ %s [%d] hsmsim_pkcs11: %s\n", now.tv_nsec / 1000000,
                        names[level], (int)getpid(), text);
    len += more < 0 ? 0 : (size_t)more;
    len = len < sizeof line ? len : sizeof line - 1;
    ssize_t written = write(type == LOG_TO_FILE ? file : STDERR_FILENO, line, len);
    (void)written; /* a full disk must not stop a signature */
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Words to the service manager (sd_notify(3)): one datagram to $NOTIFY_SOCKET.
 * Written here instead of linking libsystemd: it is all we need of it.
 * Thread: main. */
#ifndef SERVER_NOTIFY_H
#define SERVER_NOTIFY_H
#include <stdbool.h>
#include <stdint.h>
/* "READY=1", "STATUS=...", several by newline. False: nobody listens. */
bool notify_send(const char *format, ...) __attribute__((format(printf, 1, 2)));
int64_t notify_watchdog_us(void); /* how often it wants to hear from us; 0: never */
#endif

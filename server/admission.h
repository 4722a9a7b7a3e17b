/* SPDX-License-Identifier: Apache-2.0 */
/* What a parsed request head may do: come in at all, and as what. Pure. */
#ifndef SERVER_ADMISSION_H
#define SERVER_ADMISSION_H
#include "server/hosts.h"
#include "server/session.h"
struct admission {
	struct hosts hosts;
	const struct sockaddr *local; /* address that the connection came in at; may be NULL */
	int64_t body_bytes_max;
};
/* What the upgrade asks for; session "" when its name cannot be one of ours. */
struct stream_request {
	char session[SESSION_ID_BYTES];
	bool has_since;
	uint64_t since;
};

/* Checks, in this order: Host, Origin, size of the body; then, when it is a GET of
 * /v1/sessions/{id}/stream (*streams), upgrade, subprotocol and ?since=SEQ. Else false and *f. */
bool admission_check(const struct admission *rules, const struct head *h,
	struct stream_request *out, bool *streams, struct head_fault *f);
#endif

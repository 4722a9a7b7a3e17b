/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies that clients send, over HTTP or the socket: their tables of fields and
 * the step from JSON to the structs of session.h. Strings stay inside the JSON.
 * Pure; any thread. */
#ifndef SERVER_REQUESTS_H
#define SERVER_REQUESTS_H
#include "server/fields.h"
#include "server/session.h"
#define SEED_MAX ((INT64_C(1) << 53) - 1)
extern const struct fields create_fields; /* POST /v1/sessions */
extern const struct fields prompt_fields; /* POST .../prompts, prompt.set */
extern const struct fields action_fields; /* POST .../pause and its like */
extern const struct fields reset_fields; /* POST .../reset */
int requests_create(const json_t *body, struct session_request *out, struct problem *p);
int requests_prompt(const json_t *body, struct prompt_request *out, struct problem *p);
#endif

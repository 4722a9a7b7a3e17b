/* SPDX-License-Identifier: Apache-2.0 */
/* One encoder thread with its queue. The GPU thread gives it a session, then in
 * order everything that session's viewers are to get: texts, pictures, the ends
 * of chunks, at last the end. Pictures become VP9 packets; all goes to the
 * outlet. There are sessions_max encoders, made at start. */
#ifndef SERVER_ENCODER_H
#define SERVER_ENCODER_H
#include "server/session.h"
struct encoder;
/* picture: what will be encoded is known once the model is loaded. */
struct encoder *encoder_create(struct registry *r, struct error *e);
void encoder_destroy(struct encoder *en); /* after encoder_run returned; NULL is fine */
void encoder_run(struct encoder *en); /* body of its thread, until encoder_stop */
void encoder_stop(struct encoder *en); /* any thread: what is queued is done first */
int64_t encoder_ticked_us(const struct encoder *en); /* any thread */

/* GPU thread only, below. */
bool encoder_open(struct encoder *en, struct session *s); /* false: still at work for another */
/* Takes p on success. False: the queue is full. */
bool encoder_text(struct encoder *en, struct packet *p);
/* Pictures it takes before its queue is full. */
int encoder_room(const struct encoder *en);
bool encoder_frame(struct encoder *en, struct frame *f); /* takes f; false: no room */
bool encoder_chunk_end(struct encoder *en, const struct chunk_info *info, int64_t pace_wait_us);
/* The last: then viewers get the close code, and the encoder is free again. The
 * session's last state is told when `tell`. False: the queue is full. */
bool encoder_close(struct encoder *en, int close_code, const char *reason, bool tell);
/* The next picture done wakes the GPU thread. Ask for room again afterwards. */
void encoder_starve(struct encoder *en);
bool encoder_rests(const struct encoder *en); /* all it was given is done */
long long encoder_done(const struct encoder *en); /* pictures released so far */
#endif

/* guard: readers or one writer of what threads share. */
#ifndef RC_GUARD_H
#define RC_GUARD_H

#include "base/base.h"

/* All zero is free. Nobody waits. Whoever
 * was inside when the process was forked does not exist in the child: there readers are forgotten,
 * and what a writer left is torn. */
typedef struct {
    uint64_t state;
} rc_guard;

typedef enum { RC_ENTRY_FREE, RC_ENTRY_BUSY, RC_ENTRY_TORN } rc_entry;

/* Inside after RC_ENTRY_FREE, and only then to be left. */
rc_entry rc_guard_read(rc_guard *guard);
rc_entry rc_guard_write(rc_guard *guard);
void rc_guard_read_end(rc_guard *guard);
void rc_guard_write_end(rc_guard *guard);

/* Become the writer of what is torn, to replace it; false where another thread is faster. The
 * writer who fails to leaves it torn. */
bool rc_guard_mend(rc_guard *guard);
void rc_guard_tear(rc_guard *guard);

#endif

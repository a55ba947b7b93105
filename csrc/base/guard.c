/* Who is inside of something that threads share, told apart by process: a fork copies the memory,
 * but of the threads only the one that forked. */
#include "base/guard.h"

#include <unistd.h>

enum { PROCESS = 32 }; /* the state is the process's id, then how many are inside */
static const uint32_t WRITER = UINT32_MAX;

static rc_entry enter(rc_guard *guard, bool writes)
{
    uint64_t own = (uint64_t)getpid() << PROCESS, seen, want;
    seen = __atomic_load_n(&guard->state, __ATOMIC_RELAXED);
    do {
        bool ours = seen >> PROCESS == own >> PROCESS;
        uint32_t inside = (uint32_t)seen;
        if (!ours && inside == WRITER) return RC_ENTRY_TORN;
        if (!ours) inside = 0;
        if (inside == WRITER || (writes && inside > 0)) return RC_ENTRY_BUSY;
        want = own | (writes ? WRITER : inside + 1);
    } while (!__atomic_compare_exchange_n(&guard->state, &seen, want, true, __ATOMIC_ACQUIRE,
                                          __ATOMIC_RELAXED));
    return RC_ENTRY_FREE;
}

rc_entry rc_guard_read(rc_guard *guard)
{
    return enter(guard, false);
}

rc_entry rc_guard_write(rc_guard *guard)
{
    return enter(guard, true);
}

void rc_guard_read_end(rc_guard *guard)
{
    __atomic_fetch_sub(&guard->state, 1, __ATOMIC_RELEASE);
}

void rc_guard_write_end(rc_guard *guard)
{
    __atomic_store_n(&guard->state, 0, __ATOMIC_RELEASE);
}

bool rc_guard_mend(rc_guard *guard)
{
    uint64_t seen = __atomic_load_n(&guard->state, __ATOMIC_RELAXED);
    uint64_t own = (uint64_t)getpid() << PROCESS | WRITER;
    return seen >> PROCESS != own >> PROCESS && (uint32_t)seen == WRITER &&
           __atomic_compare_exchange_n(&guard->state, &seen, own, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

void rc_guard_tear(rc_guard *guard)
{
    __atomic_store_n(&guard->state, WRITER, __ATOMIC_RELEASE); /* of no process */
}

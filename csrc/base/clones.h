/* clones: hot functions compiled for several instruction sets. */
#ifndef RC_CLONES_H
#define RC_CLONES_H

/* In front of the definition of a hot function: compile it three times and let the loader choose by
 * CPU. Helpers that should follow the choice must be inlined into it. Needs the ifunc mechanism of
 * glibc, which the sanitizers' early start-up does not survive, and GCC's resolvers: those of Clang
 * refer to symbols that are not there when a module is loaded. RC_TARGET, a string, builds one of
 * the three alone, to be compared with the others. */
#if defined(__has_feature)
#define RC_HAS_FEATURE(x) __has_feature(x)
#else
#define RC_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    RC_HAS_FEATURE(address_sanitizer) || RC_HAS_FEATURE(thread_sanitizer)
#define RC_SANITIZED 1
#else
#define RC_SANITIZED 0
#endif
#if defined(RC_TARGET)
#define RC_CLONES __attribute__((target(RC_TARGET)))
#elif defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && !RC_SANITIZED &&          \
    !defined(__clang__) && __GNUC__ >= 12
#define RC_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define RC_CLONES
#endif

#endif

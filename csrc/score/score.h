/* score: class vectors, the best of scores that come in pieces. */
#ifndef RC_SCORE_H
#define RC_SCORE_H

#include "base/base.h"

/* Class vectors: y[i] = normalised mean of the normalised prompts first[i]..first[i+1]-1 of x. */
void rc_class_vectors(float *y, const float *x, const int32_t *first, int64_t labels, int64_t c);

/* RC_EINVAL, naming the array and the row, where x (n, c) holds a value that is not finite. */
rc_status rc_check_finite(const float *x, int64_t n, int64_t c, const char *name);

/* The k best of a row of scores that come in pieces: index and value (k) are a heap whose root is
 * the worst. Of equal scores the one that comes first is better. Add the scores of places
 * from..from + n - 1 after those of all places before. */
void rc_best_add(int32_t *index, float *value, int64_t k, const float *score, int64_t from,
                 int64_t n);

/* Put the heap in order, best first, once k or more scores were added. */
void rc_best_sort(int32_t *index, float *value, int64_t k);

#endif

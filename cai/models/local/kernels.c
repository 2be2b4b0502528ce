/* What torch's operations do slowly on a CPU, in one pass over memory each: attention of rows laid end to end, gated
 * units, RMS norms and rotations, forwards and backwards, in fp32. `kernels.py` compiles and calls this.
 *
 * Vectors are the compiler's own type, so that one text serves several processors. What is not a number stays none.
 * S positions, H query heads, G key heads, D head width (a multiple of 32), n entries of a pass; C keys of an entry,
 * filled up to whole tiles. All tensors are contiguous.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A vector is as long as the processor's registers, of which there are 32 or 16: longer ones would be taken apart. */
#if defined(__AVX512F__)
enum { BYTES = 64, ROWS = 8 };
#elif defined(__AVX2__) && defined(__FMA__)
enum { BYTES = 32, ROWS = 4 };
#else
#error "on this processor nobody has measured whether torch's operations are slower"
#endif

#define INLINE static inline __attribute__((always_inline))
#define AT(p) (*(vec *)(p))
#define OF(p) (*(const vec *)(p))
#define UNROLLED _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(BYTES), aligned(4), may_alias));

enum {
    WIDE = BYTES / 4, /* numbers of a vector */
    TILE = 2 * WIDE,  /* keys, or numbers of a head, whose sums are held in registers for each of ROWS queries */
};

INLINE vec all(float x) { return (vec){} + x; }

INLINE vec chosen(ints where, vec yes, vec no) { return (vec)((where & (ints)yes) | (~where & (ints)no)); }

INLINE float total(vec x) {
    float sums[WIDE];
    AT(sums) = x;
    for (int half = WIDE / 2; half; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

INLINE float largest(vec x) {
    float found[WIDE];
    AT(found) = x;
    for (int half = WIDE / 2; half; half /= 2)
        for (int i = 0; i < half; i++) found[i] = found[i] > found[i + half] ? found[i] : found[i + half];
    return found[0];
}

/* e^x = 2^n 2^f with |f| at most 1/2, and for 2^f a polynomial that is right to 2e-9; of x up to 88, which fp32 holds. */
INLINE vec exponential(vec x) {
    const float by = 1.44269504f, round = 12582912.0f; /* 1.5 · 2^23: a sum with it ends in the other's whole part */
    x = chosen(x < -87.0f, all(-87.0f), x);
    vec shifted = x * by + round;
    vec f = x * by - (shifted - round);
    vec p = 1.537070482e-4f * f + 1.339984829e-3f;
    p = p * f + 9.618373251e-3f;
    p = p * f + 5.550329035e-2f;
    p = p * f + 2.402264846e-1f;
    p = p * f + 6.931472056e-1f;
    p = p * f + 1.0f;
    return (vec)((ints)p + ((ints)shifted << 23));
}

INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(chosen(x < -88.0f, all(88.0f), -x))); }

/* Of each entry: how many keys it has and how many of their last are queries; then where they lie, entry by entry. */
typedef struct {
    const int64_t *entries, *keys, *queries;
    int64_t n, H, G, D, window; /* how many keys a query sees, itself included; 0: all before it */
    float scale;
} Pass;

/* Queries first.. of an entry, as many as go together, and the tiles of keys that any of them sees. */
typedef struct {
    const int64_t *rows; /* where they lie */
    int64_t count, left; /* of this strip, and of the entry from here on */
    int64_t at;          /* the first one's place among the entry's keys */
    int64_t from, to;    /* tiles */
} Strip;

static Strip strip_of(const Pass *pass, const int64_t *entry, const int64_t *queries, int64_t first) {
    int64_t left = entry[1] - first, at = entry[0] - left;
    int64_t count = left < ROWS ? left : ROWS, lowest = at - pass->window + 1;
    int64_t from = pass->window > 0 && lowest > 0 ? lowest / TILE : 0;
    return (Strip){queries + first, count, left, at, from, (at + count - 1) / TILE + 1};
}

static int64_t filled_up(int64_t keys) { return (keys + TILE - 1) / TILE * TILE; }

static int64_t longest(const Pass *pass) {
    int64_t most = 0;
    for (int64_t e = 0; e < pass->n; e++) most = pass->entries[2 * e] > most ? pass->entries[2 * e] : most;
    return filled_up(most);
}

/* One head's rows of the keys, end to end; zeros where there are no more keys. The next head's are sent for. */
static void gather(const float *x, int64_t stride, const int64_t *keys, int64_t count, int64_t D, float *out) {
    for (int64_t c = 0; c < count; c++) {
        memcpy(out + c * D, x + keys[c] * stride, D * sizeof(float));
        for (int64_t d = 0; d < D; d += WIDE) __builtin_prefetch(x + keys[c] * stride + D + d, 0, 2);
    }
    memset(out + count * D, 0, (filled_up(count) - count) * D * sizeof(float));
}

/* The same with the keys of each tile side by side: (C / TILE, D, TILE). */
static void gather_turned(const float *x, int64_t stride, const int64_t *keys, int64_t count, int64_t D, float *out) {
    for (int64_t c = 0; c < filled_up(count); c++) {
        const float *own = x + keys[c < count ? c : 0] * stride;
        float *to = out + c / TILE * TILE * D + c % TILE;
        for (int64_t d = 0; d < D; d++) to[d * TILE] = c < count ? own[d] : 0.0f;
        for (int64_t d = 0; d < D; d += WIDE) __builtin_prefetch(own + D + d, 0, 2);
    }
}

/* A strip's rows of one head, times `by`; zeros fill it up. The next strip's are sent for. */
INLINE void take(const float *x, int64_t stride, Strip strip, int64_t D, float by, float *out) {
    for (int64_t r = ROWS; r < 2 * ROWS && r < strip.left; r++)
        for (int64_t d = 0; d < D; d += WIDE) __builtin_prefetch(x + strip.rows[r] * stride + d);
    memset(out, 0, ROWS * D * sizeof(float));
    for (int64_t r = 0; r < strip.count; r++)
        for (int64_t d = 0; d < D; d += WIDE) AT(out + r * D + d) = OF(x + strip.rows[r] * stride + d) * by;
}

/* out[r][c] = Σ_d left[r][d] · right[c][d], where `right` is turned. */
INLINE void products(const float *left, const float *right, Strip strip, int64_t D, int64_t C, float *out) {
    for (int64_t tile = strip.from; tile < strip.to; tile++) {
        vec sum[ROWS][2] = {};
        const float *own = right + tile * TILE * D;
        for (int64_t d = 0; d < D; d++) {
            vec a = OF(own + d * TILE), b = OF(own + d * TILE + WIDE);
            UNROLLED for (int r = 0; r < ROWS; r++) {
                sum[r][0] += left[r * D + d] * a;
                sum[r][1] += left[r * D + d] * b;
            }
        }
        UNROLLED for (int r = 0; r < ROWS; r++) {
            AT(out + r * C + tile * TILE) = sum[r][0];
            AT(out + r * C + tile * TILE + WIDE) = sum[r][1];
        }
    }
}

/* out[r][d] = Σ_c weights[r][c] · right[c][d] */
INLINE void weighed(const float *weights, const float *right, Strip strip, int64_t D, int64_t C, float *out) {
    for (int64_t d = 0; d < D; d += TILE) {
        vec sum[ROWS][2] = {};
        for (int64_t c = strip.from * TILE; c < strip.to * TILE; c++) {
            vec a = OF(right + c * D + d), b = OF(right + c * D + d + WIDE);
            UNROLLED for (int r = 0; r < ROWS; r++) {
                sum[r][0] += weights[r * C + c] * a;
                sum[r][1] += weights[r * C + c] * b;
            }
        }
        UNROLLED for (int r = 0; r < ROWS; r++) {
            AT(out + r * D + d) = sum[r][0];
            AT(out + r * D + d + WIDE) = sum[r][1];
        }
    }
}

/* out[c][d] += Σ_r weights[r][c] · left[r][d] */
INLINE void spread(const float *weights, const float *left, Strip strip, int64_t D, int64_t C, float *out) {
    for (int64_t d = 0; d < D; d += TILE)
        for (int64_t c = strip.from * TILE; c < strip.to * TILE; c += ROWS) {
            vec sum[ROWS][2];
            UNROLLED for (int k = 0; k < ROWS; k++) {
                sum[k][0] = OF(out + (c + k) * D + d);
                sum[k][1] = OF(out + (c + k) * D + d + WIDE);
            }
            for (int r = 0; r < ROWS; r++) {
                vec a = OF(left + r * D + d), b = OF(left + r * D + d + WIDE);
                UNROLLED for (int k = 0; k < ROWS; k++) {
                    sum[k][0] += weights[r * C + c + k] * a;
                    sum[k][1] += weights[r * C + c + k] * b;
                }
            }
            UNROLLED for (int k = 0; k < ROWS; k++) {
                AT(out + (c + k) * D + d) = sum[k][0];
                AT(out + (c + k) * D + d + WIDE) = sum[k][1];
            }
        }
}

/* x at the keys c.. that the query at `place` sees, `gone` elsewhere. */
INLINE vec seen(vec x, int64_t c, int64_t place, int64_t window, float gone) {
    if (c + WIDE <= place && window == 0) return x;
    static const int32_t order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ints at = *(const ints *)order + (int32_t)c, where = at <= (int32_t)place;
    if (window > 0) where &= at > (int32_t)(place - window);
    return chosen(where, x, all(gone));
}

/* Scores become exponentials beside the largest; their sum, and its logarithm as it was before. */
INLINE float softened(float *scores, Strip strip, int64_t place, int64_t window, float *level) {
    vec high = all(-INFINITY), sum = {};
    for (int64_t c = strip.from * TILE; c < strip.to * TILE; c += WIDE) {
        vec x = seen(OF(scores + c), c, place, window, -INFINITY);
        high = chosen(high > x, high, x);
    }
    float most = largest(high);
    for (int64_t c = strip.from * TILE; c < strip.to * TILE; c += WIDE) {
        vec x = seen(exponential(OF(scores + c) - most), c, place, window, 0.0f);
        AT(scores + c) = x;
        sum += x;
    }
    float found = total(sum);
    *level = most + logf(found);
    return found;
}

/* What each position sees of the others, of key heads g0 to g1: (S, H, D), and the logarithms of the sums of its
 * exponentials, (S, H). Not zero where memory is missing. */
int cai_attend(const Pass *pass, const float *q, const float *k, const float *v, float *out, float *levels, int64_t g0,
               int64_t g1) {
    const int64_t D = pass->D, H = pass->H, G = pass->G, share = H / G, room = longest(pass);
    float *turned = aligned_alloc(BYTES, sizeof(float) * (2 * room * D + ROWS * (room + 2 * D)));
    if (!turned) return 1;
    float *values = turned + room * D, *scores = values + room * D, *left = scores + ROWS * room;
    float *sum = left + ROWS * D;
    const int64_t *keys = pass->keys, *queries = pass->queries;
    for (int64_t e = 0; e < pass->n; e++) {
        const int64_t *entry = pass->entries + 2 * e, C = filled_up(entry[0]);
        for (int64_t g = g0; g < g1; g++) {
            gather_turned(k + g * D, G * D, keys, entry[0], D, turned);
            gather(v + g * D, G * D, keys, entry[0], D, values);
            for (int64_t h = g * share; h < (g + 1) * share; h++)
                for (int64_t first = 0; first < entry[1]; first += ROWS) {
                    Strip strip = strip_of(pass, entry, queries, first);
                    float sums[ROWS], level;
                    take(q + h * D, H * D, strip, D, pass->scale, left);
                    products(left, turned, strip, D, C, scores);
                    for (int64_t r = 0; r < ROWS; r++) {
                        int64_t place = strip.at + (r < strip.count ? r : strip.count - 1);
                        sums[r] = softened(scores + r * C, strip, place, pass->window, &level);
                        if (r < strip.count) levels[strip.rows[r] * H + h] = level;
                    }
                    weighed(scores, values, strip, D, C, sum);
                    for (int64_t r = 0; r < strip.count; r++)
                        for (int64_t d = 0; d < D; d += WIDE)
                            AT(out + (strip.rows[r] * H + h) * D + d) = OF(sum + r * D + d) * (1.0f / sums[r]);
                }
        }
        keys += entry[0], queries += entry[1];
    }
    free(turned);
    return 0;
}

/* What flows back to queries, keys and values. With weights p and what is due to them: p · (due − Σ p · due), the sum
 * being that of what came out times what it is given. `to_k` and `to_v` begin with zeros. */
int cai_attend_back(const Pass *pass, const float *q, const float *k, const float *v, const float *out,
                    const float *levels, const float *given, float *to_q, float *to_k, float *to_v, int64_t g0,
                    int64_t g1) {
    const int64_t D = pass->D, H = pass->H, G = pass->G, share = H / G, room = longest(pass);
    float *turned_k = aligned_alloc(BYTES, sizeof(float) * (5 * room * D + ROWS * (2 * room + 3 * D)));
    if (!turned_k) return 1;
    float *turned_v = turned_k + room * D, *rows_k = turned_v + room * D, *sum_k = rows_k + room * D;
    float *sum_v = sum_k + room * D, *weights = sum_v + room * D, *pulls = weights + ROWS * room;
    float *left = pulls + ROWS * room, *due = left + ROWS * D, *sum = due + ROWS * D;
    const int64_t *keys = pass->keys, *queries = pass->queries;
    for (int64_t e = 0; e < pass->n; e++) {
        const int64_t *entry = pass->entries + 2 * e, C = filled_up(entry[0]);
        for (int64_t g = g0; g < g1; g++) {
            gather_turned(k + g * D, G * D, keys, entry[0], D, turned_k);
            gather_turned(v + g * D, G * D, keys, entry[0], D, turned_v);
            gather(k + g * D, G * D, keys, entry[0], D, rows_k);
            memset(sum_k, 0, C * D * sizeof(float));
            memset(sum_v, 0, C * D * sizeof(float));
            for (int64_t h = g * share; h < (g + 1) * share; h++)
                for (int64_t first = 0; first < entry[1]; first += ROWS) {
                    Strip strip = strip_of(pass, entry, queries, first);
                    take(q + h * D, H * D, strip, D, pass->scale, left);
                    take(given + h * D, H * D, strip, D, 1.0f, due);
                    take(out + h * D, H * D, strip, D, 1.0f, sum);
                    products(left, turned_k, strip, D, C, weights);
                    products(due, turned_v, strip, D, C, pulls);
                    for (int64_t r = 0; r < ROWS; r++) {
                        float *own = weights + r * C, *pull = pulls + r * C;
                        /* What fills a strip up scores 0, is given nothing, and pulls at nothing. */
                        int64_t row = r < strip.count ? r : strip.count - 1;
                        float level = r < strip.count ? levels[strip.rows[row] * H + h] : 0.0f;
                        vec both = {};
                        for (int64_t d = 0; d < D; d += WIDE) both += OF(sum + r * D + d) * OF(due + r * D + d);
                        float mean = total(both);
                        for (int64_t c = strip.from * TILE; c < strip.to * TILE; c += WIDE) {
                            vec x = exponential(OF(own + c) - level);
                            x = seen(x, c, strip.at + row, pass->window, 0.0f);
                            AT(own + c) = x;
                            AT(pull + c) = x * (OF(pull + c) - mean);
                        }
                    }
                    spread(weights, due, strip, D, C, sum_v);
                    spread(pulls, left, strip, D, C, sum_k);
                    weighed(pulls, rows_k, strip, D, C, sum);
                    for (int64_t r = 0; r < strip.count; r++)
                        for (int64_t d = 0; d < D; d += WIDE)
                            AT(to_q + (strip.rows[r] * H + h) * D + d) = OF(sum + r * D + d) * pass->scale;
                }
            for (int64_t c = 0; c < entry[0]; c++)
                for (int64_t d = 0; d < D; d += WIDE) {
                    AT(to_k + (keys[c] * G + g) * D + d) += OF(sum_k + c * D + d);
                    AT(to_v + (keys[c] * G + g) * D + d) += OF(sum_v + c * D + d);
                }
        }
        keys += entry[0], queries += entry[1];
    }
    free(turned_k);
    return 0;
}

/* silu(gate) · up; here and below, widths are multiples of 16. */
void cai_gated(int64_t size, const float *gate, const float *up, float *out) {
    for (int64_t i = 0; i < size; i += WIDE) AT(out + i) = OF(gate + i) * sigmoid(OF(gate + i)) * OF(up + i);
}

void cai_gated_back(int64_t size, const float *given, const float *gate, const float *up, float *to_gate, float *to_up) {
    for (int64_t i = 0; i < size; i += WIDE) {
        vec x = OF(gate + i), due = OF(given + i), part = sigmoid(x);
        AT(to_up + i) = due * x * part;
        AT(to_gate + i) = due * OF(up + i) * part * (1.0f + x * (1.0f - part));
    }
}

/* x · rate · weight with rate = 1 / √(mean x² + ε) */
void cai_normed(int64_t rows, int64_t width, const float *x, const float *weight, float epsilon, float *out,
                float *rates) {
    for (int64_t r = 0; r < rows; r++, x += width, out += width) {
        vec squares = {};
        for (int64_t d = 0; d < width; d += WIDE) squares += OF(x + d) * OF(x + d);
        float rate = rates[r] = 1.0f / sqrtf(total(squares) / width + epsilon);
        for (int64_t d = 0; d < width; d += WIDE) AT(out + d) = OF(x + d) * rate * OF(weight + d);
    }
}

/* With g = given · weight and x̂ = x · rate: rate · (g − x̂ · mean(g · x̂)) */
void cai_normed_back(int64_t rows, int64_t width, const float *given, const float *x, const float *weight,
                     const float *rates, float *to_x) {
    for (int64_t r = 0; r < rows; r++, given += width, x += width, to_x += width) {
        vec both = {};
        for (int64_t d = 0; d < width; d += WIDE) both += OF(given + d) * OF(weight + d) * OF(x + d);
        float rate = rates[r], mean = total(both) / width * rate * rate;
        for (int64_t d = 0; d < width; d += WIDE)
            AT(to_x + d) = (OF(given + d) * OF(weight + d) - OF(x + d) * mean) * rate;
    }
}

/* Every head of a row turned by the row's angles: x · cos + (−second half, first half of x) · sin. */
void cai_turned(int64_t rows, int64_t H, int64_t D, const float *x, const float *cos, const float *sin, float *out) {
    const int64_t half = D / 2;
    for (int64_t r = 0; r < rows; r++, cos += D, sin += D)
        for (int64_t h = 0; h < H; h++, x += D, out += D)
            for (int64_t d = 0; d < half; d += WIDE) {
                vec a = OF(x + d), b = OF(x + half + d);
                AT(out + d) = a * OF(cos + d) - b * OF(sin + d);
                AT(out + half + d) = b * OF(cos + half + d) + a * OF(sin + half + d);
            }
}

/* Of a tile of logits, their exponentials beside the largest that any tile had; what the totals of earlier tiles were
 * multiplied with because it grew. */
void cai_odds(int64_t rows, int64_t width, int64_t stride, float *logits, float *top, float *sums, float *shrunk) {
    for (int64_t r = 0; r < rows; r++, logits += stride) {
        vec high = all(top[r]), sum = {};
        for (int64_t c = 0; c < width; c += WIDE) high = chosen(high > OF(logits + c), high, OF(logits + c));
        float most = largest(high);
        for (int64_t c = 0; c < width; c += WIDE) {
            vec x = exponential(OF(logits + c) - most);
            AT(logits + c) = x;
            sum += x;
        }
        shrunk[r] = expf(top[r] - most);
        sums[r] = sums[r] * shrunk[r] + total(sum);
        top[r] = most;
    }
}

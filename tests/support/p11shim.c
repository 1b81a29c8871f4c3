/* A PKCS#11 module for tests: hands every call on to the module that P11SHIM_MODULE names, counts
 * them, and is slow, fails or lies on request.
 *
 * A test sets it up through the shim_* functions, from the same process. P11SHIM_LOG names a file
 * that gets a line for each C_Login, by any process: "PID RETURN-VALUE".
 *
 * No header is needed: a CK_FUNCTION_LIST is a version and 68 pointers, and every argument of the
 * functions behind them is passed as a machine word.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long word;
typedef word function(word, word, word, word, word, word, word, word);

enum {
    FUNCTIONS = 68,
    INITIALIZE = 0, FINALIZE = 1, GET_INFO = 2, GET_FUNCTION_LIST = 3, GET_SLOT_INFO = 5,
    GET_TOKEN_INFO = 6, GET_MECHANISM_INFO = 8, OPEN_SESSION = 12, CLOSE_SESSION = 13,
    CLOSE_ALL_SESSIONS = 14, LOGIN = 18, GET_ATTRIBUTE_VALUE = 24, SIGN = 43,
    DEVICE_ERROR = 0x30, SESSION_COUNT = 0xB1, MAX_LIES = 16,
};

static struct list {
    unsigned char version[2];
    function *call[FUNCTIONS];
} own, *real;

static struct {
    long calls, microseconds, failures, hangs;
    word failure;
    int skipped;
} plan[FUNCTIONS];

static int held;
static word token_flags_on, token_flags_off, slot_flags_on, mechanism_flags_on;
static long session_limit = -1, sessions, broken_slot = -1;
static const char *vendor;
static struct { word type; unsigned char value; } lies[MAX_LIES];
static int lie_count;

void shim_fail(int function, word value, long times) {
    plan[function].failure = value;
    __atomic_store_n(&plan[function].failures, times, __ATOMIC_SEQ_CST);
}
void shim_hang(int function, long times) {
    __atomic_store_n(&held, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&plan[function].hangs, times, __ATOMIC_SEQ_CST);
}
void shim_release(void) { __atomic_store_n(&held, 0, __ATOMIC_SEQ_CST); }
void shim_delay(int function, long microseconds) { plan[function].microseconds = microseconds; }
void shim_skip(int function, int skipped) { plan[function].skipped = skipped; }
long shim_calls(int function) { return __atomic_load_n(&plan[function].calls, __ATOMIC_SEQ_CST); }
void shim_token_flags(word on, word off) { token_flags_on = on; token_flags_off = off; }
void shim_hardware(word slot, word mechanism) { slot_flags_on = slot; mechanism_flags_on = mechanism; }
void shim_session_limit(long limit) { session_limit = limit; }
long shim_sessions(void) { return __atomic_load_n(&sessions, __ATOMIC_SEQ_CST); }
void shim_break_slot(long slot) { broken_slot = slot; }
void shim_vendor(const char *name) { vendor = name ? strdup(name) : NULL; }
void shim_attribute(word type, int value) {
    if (lie_count < MAX_LIES) {
        lies[lie_count].type = type;
        lies[lie_count++].value = (unsigned char)value;
    }
}

static void padded(unsigned char *field, size_t size) {
    memset(field, ' ', size);
    memcpy(field, vendor, strlen(vendor) < size ? strlen(vendor) : size);
}

/* Changes what the real module answered; offsets are those of PKCS #11's structures. */
static void falsify(int number, word a, word b, word c) {
    if (number == GET_INFO && vendor) {
        unsigned char *info = (unsigned char *)a;
        padded(info + 2, 32);
        padded(info + 48, 32);
    } else if (number == GET_SLOT_INFO) {
        unsigned char *info = (unsigned char *)b;
        if (vendor) { padded(info, 64); padded(info + 64, 32); }
        *(word *)(info + 96) |= slot_flags_on;
    } else if (number == GET_TOKEN_INFO) {
        unsigned char *info = (unsigned char *)b;
        if (vendor) { padded(info + 32, 32); padded(info + 64, 16); }
        *(word *)(info + 96) = (*(word *)(info + 96) | token_flags_on) & ~token_flags_off;
    } else if (number == GET_MECHANISM_INFO) {
        ((word *)c)[2] |= mechanism_flags_on;
    }
}

static void lie(word attributes, word count) {
    struct { word type; unsigned char *value; word length; } *item = (void *)attributes;
    for (word i = 0; i < count; i++)
        for (int n = 0; n < lie_count; n++)
            if (item[i].type == lies[n].type && item[i].value && item[i].length == 1)
                *item[i].value = lies[n].value;
}

/* Takes one of so many times; -1 means always. */
static int taken(long *times) {
    long left = __atomic_load_n(times, __ATOMIC_SEQ_CST);
    while (left > 0)
        if (__atomic_compare_exchange_n(times, &left, left - 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return 1;
    return left < 0;
}

static void log_login(word value) {
    const char *path = getenv("P11SHIM_LOG");
    char line[64];
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (file < 0)
        return;
    int length = snprintf(line, sizeof line, "%ld %lu\n", (long)getpid(), value);
    if (write(file, line, (size_t)length) != length)
        abort();
    close(file);
}

static word call(int number, word a, word b, word c, word d, word e, word f, word g, word h) {
    word value;

    __atomic_add_fetch(&plan[number].calls, 1, __ATOMIC_SEQ_CST);
    if (plan[number].microseconds) {
        long us = plan[number].microseconds;
        struct timespec pause = {us / 1000000, us % 1000000 * 1000};
        nanosleep(&pause, NULL);
    }
    if (taken(&plan[number].hangs))
        while (__atomic_load_n(&held, __ATOMIC_SEQ_CST))
            nanosleep(&(struct timespec){0, 2000000}, NULL);
    if (plan[number].skipped)
        return 0;
    if (taken(&plan[number].failures)) {
        value = plan[number].failure;
    } else if (number == GET_SLOT_INFO && (long)a == broken_slot) {
        value = DEVICE_ERROR;
    } else if (number == OPEN_SESSION && session_limit >= 0 &&
               __atomic_load_n(&sessions, __ATOMIC_SEQ_CST) >= session_limit) {
        value = SESSION_COUNT;
    } else {
        value = real->call[number](a, b, c, d, e, f, g, h);
        if (!value && number == OPEN_SESSION)
            __atomic_add_fetch(&sessions, 1, __ATOMIC_SEQ_CST);
        if (!value && number == CLOSE_SESSION)
            __atomic_sub_fetch(&sessions, 1, __ATOMIC_SEQ_CST);
        if (!value && (number == FINALIZE || number == CLOSE_ALL_SESSIONS))
            __atomic_store_n(&sessions, 0, __ATOMIC_SEQ_CST);
        if (!value)
            falsify(number, a, b, c);
        if (number == GET_ATTRIBUTE_VALUE)
            lie(c, d);
    }
    if (number == LOGIN)
        log_login(value);
    return value;
}

#define WRAP(n) static word call_##n(word a, word b, word c, word d, word e, word f, word g, word h) \
    { return call(n, a, b, c, d, e, f, g, h); }
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) \
    X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29)  \
    X(30) X(31) X(32) X(33) X(34) X(35) X(36) X(37) X(38) X(39) X(40) X(41) X(42) X(43) X(44)  \
    X(45) X(46) X(47) X(48) X(49) X(50) X(51) X(52) X(53) X(54) X(55) X(56) X(57) X(58) X(59)  \
    X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
EACH(WRAP)

word C_GetFunctionList(struct list **list);

static word get_function_list(word a, word b, word c, word d, word e, word f, word g, word h) {
    (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    return C_GetFunctionList((struct list **)a);
}

word C_GetFunctionList(struct list **list) {
    if (!real) {
        const char *path = getenv("P11SHIM_MODULE");
        void *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
        word (*get)(struct list **) = NULL;
        if (module)
            *(void **)&get = dlsym(module, "C_GetFunctionList");
        if (!get || get(&real))
            return 5;
        memcpy(own.version, real->version, sizeof own.version);
#define SET(n) own.call[n] = call_##n;
        EACH(SET)
        own.call[GET_FUNCTION_LIST] = get_function_list;
    }
    *list = &own;
    return 0;
}

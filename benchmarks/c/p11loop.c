/* Signs in a loop on an initialised PKCS#11 module: the raw device, without Python.
 *
 * Loaded into the process that runs the benchmark, so that it works on the same module, token and
 * login. Each thread has its own session and finds the key once.
 */
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

struct work {
    CK_FUNCTION_LIST *p11;
    CK_SLOT_ID slot;
    const char *label;
    CK_MECHANISM_TYPE mechanism;
    unsigned char *data;
    unsigned long data_length, count;
    CK_RV result;
};

static void *sign(void *argument) {
    struct work *work = argument;
    CK_FUNCTION_LIST *p11 = work->p11;
    CK_OBJECT_CLASS private_key = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted[] = {
        {CKA_CLASS, &private_key, sizeof private_key},
        {CKA_LABEL, (void *)work->label, strlen(work->label)},
    };
    CK_MECHANISM mechanism = {work->mechanism, NULL, 0};
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_ULONG found = 0;
    unsigned char signature[1024];

    if ((work->result = p11->C_OpenSession(work->slot, CKF_SERIAL_SESSION, NULL, NULL, &session)))
        return NULL;
    work->result = p11->C_FindObjectsInit(session, wanted, 2);
    if (work->result == CKR_OK) {
        work->result = p11->C_FindObjects(session, &key, 1, &found);
        p11->C_FindObjectsFinal(session);
        if (work->result == CKR_OK && found != 1)
            work->result = CKR_KEY_HANDLE_INVALID;
    }
    for (unsigned long i = 0; work->result == CKR_OK && i < work->count; i++) {
        CK_ULONG length = sizeof signature;
        work->result = p11->C_SignInit(session, &mechanism, key);
        if (work->result == CKR_OK)
            work->result = p11->C_Sign(session, work->data, work->data_length, signature, &length);
    }
    p11->C_CloseSession(session);
    return NULL;
}

/* The slot of the token with this label (padded with blanks in CK_TOKEN_INFO), or -1. */
long p11_slot(CK_FUNCTION_LIST *p11, const char *label) {
    CK_SLOT_ID slots[64];
    CK_ULONG count = 64;
    CK_TOKEN_INFO info;
    size_t length = strlen(label);

    if (p11->C_GetSlotList(CK_TRUE, slots, &count) != CKR_OK)
        return -1;
    for (CK_ULONG i = 0; i < count; i++)
        if (p11->C_GetTokenInfo(slots[i], &info) == CKR_OK &&
            memcmp(info.label, label, length) == 0 &&
            (length == sizeof info.label || info.label[length] == ' '))
            return (long)slots[i];
    return -1;
}

/* Seconds that `threads` threads take for `count` signatures each; negative: a CKR code. */
double p11_loop(CK_FUNCTION_LIST *p11, CK_SLOT_ID slot, const char *label,
                CK_MECHANISM_TYPE mechanism, unsigned char *data, unsigned long data_length,
                unsigned long count, unsigned threads) {
    struct work work[64];
    pthread_t thread[64];
    struct timespec start, end;

    if (threads > 64)
        return -(double)CKR_ARGUMENTS_BAD;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned i = 0; i < threads; i++) {
        work[i] = (struct work){p11, slot, label, mechanism, data, data_length, count, CKR_OK};
        if (pthread_create(&thread[i], NULL, sign, &work[i]))
            return -(double)CKR_HOST_MEMORY;
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    for (unsigned i = 0; i < threads; i++)
        if (work[i].result != CKR_OK)
            return -(double)work[i].result;
    return (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
}

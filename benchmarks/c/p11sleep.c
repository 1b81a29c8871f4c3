/* A PKCS#11 module that is slow and busy with nothing: SoftHSM behind it, but from the second
 * signature on it sleeps 1 ms and returns the first again. It shows whether callers wait for the
 * device or for each other.
 *
 * P11SLEEP_MODULE names the module behind it.
 */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static CK_FUNCTION_LIST *real, own;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char kept[1024];
static CK_ULONG kept_length;

static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key) {
    return __atomic_load_n(&kept_length, __ATOMIC_ACQUIRE)
               ? CKR_OK
               : real->C_SignInit(session, mechanism, key);
}

static CK_RV sign(CK_SESSION_HANDLE session, unsigned char *data, CK_ULONG data_length,
                  unsigned char *signature, CK_ULONG *length) {
    const struct timespec millisecond = {0, 1000000};

    if (!__atomic_load_n(&kept_length, __ATOMIC_ACQUIRE)) {
        pthread_mutex_lock(&lock);
        CK_RV result = real->C_Sign(session, data, data_length, signature, length);
        if (result == CKR_OK && signature && *length <= sizeof kept) {
            memcpy(kept, signature, *length);
            __atomic_store_n(&kept_length, *length, __ATOMIC_RELEASE);
        }
        pthread_mutex_unlock(&lock);
        return result;
    }
    if (signature) {
        if (*length < kept_length)
            return CKR_BUFFER_TOO_SMALL;
        nanosleep(&millisecond, NULL);
        memcpy(signature, kept, kept_length);
    }
    *length = kept_length;
    return CKR_OK;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list) {
    if (!real) {
        void *module = dlopen(getenv("P11SLEEP_MODULE"), RTLD_NOW);
        CK_C_GetFunctionList get =
            module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != CKR_OK)
            return CKR_GENERAL_ERROR;
        own = *real;
        own.C_SignInit = sign_init;
        own.C_Sign = sign;
    }
    *list = &own;
    return CKR_OK;
}

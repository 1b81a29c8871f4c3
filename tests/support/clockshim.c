/*
 * Loaded with LD_PRELOAD, moves the clocks of one process: two doubles in the file that
 * KEYSTAY_TEST_CLOCK_OFFSETS names are the seconds added to the wall clock, and to the clock that goes
 * on while the machine sleeps. The monotonic clock, and so every wait, stays as it is.
 *
 * A step of the wall clock moves the first; a sleep moves both.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *offsets;

__attribute__((constructor)) static void map_offsets(void)
{
	const char *path = getenv("KEYSTAY_TEST_CLOCK_OFFSETS");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0)
		return;
	void *found = mmap(NULL, 2 * sizeof(double), PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (found != MAP_FAILED)
		offsets = found;
}

static void shift(struct timespec *moment, double seconds)
{
	double whole = floor(seconds);
	moment->tv_sec += (time_t)whole;
	moment->tv_nsec += (long)((seconds - whole) * 1e9);
	if (moment->tv_nsec >= 1000000000L) {
		moment->tv_nsec -= 1000000000L;
		moment->tv_sec++;
	}
}

int clock_gettime(clockid_t clock, struct timespec *moment)
{
	static int (*real)(clockid_t, struct timespec *);
	if (!real)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int result = real(clock, moment);
	if (result == 0 && offsets) {
		if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
			shift(moment, offsets[0]);
		else if (clock == CLOCK_BOOTTIME)
			shift(moment, offsets[1]);
	}
	return result;
}

time_t time(time_t *result)
{
	struct timespec moment;
	clock_gettime(CLOCK_REALTIME, &moment);
	if (result)
		*result = moment.tv_sec;
	return moment.tv_sec;
}

int gettimeofday(struct timeval *restrict result, void *restrict zone)
{
	struct timespec moment;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &moment);
	result->tv_sec = moment.tv_sec;
	result->tv_usec = moment.tv_nsec / 1000;
	return 0;
}

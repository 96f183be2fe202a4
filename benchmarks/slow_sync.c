/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk whose cache takes a millisecond longer to flush, preloaded into every server alike.
 *
 * Flushes are merged as Linux merges those for a disk (block/blk-flush.c): one is under way at a time, and all that
 * arrive meanwhile share the next one. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t flushed = PTHREAD_COND_INITIALIZER;
static unsigned long started, ended; /* flushes; guarded by lock, equal when none is under way */

static void flush_slowly(void)
{
    const struct timespec pause = { 0, 1000000 };
    unsigned long wanted;

    pthread_mutex_lock(&lock);
    wanted = started + 1;
    while (ended < wanted)
        if (started == ended) {
            started++;
            pthread_mutex_unlock(&lock);
            nanosleep(&pause, NULL);
            pthread_mutex_lock(&lock);
            ended++;
            pthread_cond_broadcast(&flushed);
        } else
            pthread_cond_wait(&flushed, &lock);
    pthread_mutex_unlock(&lock);
}

int fdatasync(int fd)
{
    int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);

    flush_slowly();
    return result;
}
